"""Makes a file of every kind that this library reads, changes it in bad ways, and opens it: every entry point in one table."""

import hashlib
import json
import os
import shutil
import traceback
from pathlib import Path

import numpy as np
import yaml

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.config import RunConfig
from rl_transformer.config.sections import DataConfig
from rl_transformer.runtime.reading import read_yaml
from rl_transformer.trajectories.open import open_training_data
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data, telling_data, tiny_config
from tests.trajectories.foreign_files import game_data, write_d4rl, write_minari_vectors, write_replay
from tests.trajectories.table_files import write_csv, write_hf, write_jsonl, write_parquet

MINARI_ID = "toy/telling-v0"
# Kinds whose files carry hashes, so that a change is either refused or has no effect.
HASHED = ("store", "policy", "run")

HOSTILE_VALUES = [
    "evil_module", "evil_module:run", "tests.trap:run", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd",
    "https://127.0.0.1:9/x", "$(touch pwned)", "`touch pwned`", "__import__('os').system('touch pwned')", "${oc.env:HOME}",
    "!!python/object/apply:os.system ['touch pwned']", "\x00", "\ud800", "a" * 5000, "", "nan", "NaN", "-0", "1e999",
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, -1e-308, 0.5, [], {}, [[]], [None], [0], [-1],
    [10**9], [2**40, 2**40], {"a": 1}, {"kind": "box"}, {"__class__": "os.system"}, [[[[[[]]]]]], ["evil_module:run"],
]  # fmt: skip


def make_all(root):
    """Write one of each kind below ``root``; return its folder by kind."""
    os.environ["MINARI_DATASETS_PATH"] = str(root / "minari")
    data = point_data(8)
    write_store(root / "store/it", data.spec, (data.trajectory(i) for i in range(len(data))))
    (root / "d4rl").mkdir()
    write_d4rl(root / "d4rl/it.hdf5", telling_data())
    write_minari_vectors(MINARI_ID, telling_data())
    write_replay(root / "replay/it", game_data())
    config = tiny_config(root / "run/it", training={"train_steps": 2, "checkpoint_every": 1, "warmup_steps": 1})
    train(config, dataset=data)
    (root / "policy").mkdir()
    shutil.copytree(root / "run/it/policy", root / "policy/it")
    shutil.rmtree(root / "run/it/policy")
    (root / "run/it/finished.json").unlink()
    (root / "config").mkdir()
    (root / "config/it.yaml").write_text(yaml.safe_dump(config.to_dict()))
    (root / "csv").mkdir()
    (root / "jsonl").mkdir()
    write_parquet(root / "parquet/it", telling_data())
    write_csv(root / "csv/it", telling_data())
    write_jsonl(root / "jsonl/it", telling_data())
    (root / "hf").mkdir()
    write_hf(root / "hf/it", telling_data())
    tables = ("parquet", "csv", "jsonl", "hf")
    return {kind: root / kind for kind in (*tables, "store", "d4rl", "minari", "replay", "run", "policy", "config")}


def open_it(kind, folder):
    """Open what is in a folder as a user would, and return a hash of all that was understood."""
    if kind == "policy":
        policy = load_policy(folder / "it")
        action = policy.session(3.0, seed=0).act(np.zeros(2, np.float32))
        return policy.content_hash, action.tobytes()
    if kind == "config":
        config = RunConfig.from_dict(read_yaml(folder / "it.yaml", fix="repair it"), where=folder / "it.yaml")
        config.check()
        return json.dumps(config.to_dict(), sort_keys=True)
    if kind == "run":
        steps = {"train_steps": 2, "checkpoint_every": 1, "warmup_steps": 1}
        train(tiny_config(folder / "it", training=steps), dataset=point_data(8), resume=True)
        return load_policy(folder / "it").content_hash
    uri = {
        "minari": f"minari:{MINARI_ID}",
        "d4rl": f"d4rl:{folder / 'it.hdf5'}",
        **{table: f"{table}:{folder / 'it'}" for table in ("parquet", "csv", "jsonl", "hf")},
        "replay": f"dqn-replay:{folder / 'it'}",
    }
    if kind == "minari":
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
    data = open_training_data(DataConfig(uri=uri.get(kind, f"rlt:{folder / 'it'}")))
    digest = hashlib.sha256()
    for column in (*data.columns.values(), data.summary.terminated, data.summary.truncated, data.offsets):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def mutate_bytes(folder, random):
    """Change some bytes of one file: flipped, cut off, zeroed, or copied from elsewhere in it; return what was done."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.stat().st_size and path.name != ".lock"
    )
    path = files[random.integers(len(files))]
    content = bytearray(path.read_bytes())
    how = ["flip", "flips", "cut", "zero", "splice"][random.integers(5)]
    at = int(random.integers(len(content)))
    if how in ("flip", "flips"):
        for place in random.integers(len(content), size=1 if how == "flip" else 8):
            content[place] ^= 1 << int(random.integers(8))
    elif how == "cut":
        del content[at:]
    elif how == "zero":
        end = min(len(content), at + 512)
        content[at:end] = bytes(end - at)
    else:
        start = int(random.integers(len(content)))
        part = content[start : start + 64]
        content[at : at + len(part)] = part
    path.write_bytes(bytes(content))
    return f"{path.relative_to(folder)}: {how} at {at}"


def mutate_values(folder, random):
    """Put a hostile value into one JSON or YAML file, and make the manifest beside it fit; return what was done."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".yaml") and path.is_file())
    path = files[random.integers(len(files))]
    content = yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
    places = list(places_in(content)) or [({"empty": 0}, "empty")]
    container, key = places[random.integers(len(places))]
    value = HOSTILE_VALUES[random.integers(len(HOSTILE_VALUES))]
    how = ["set", "remove", "name"][random.choice(3, p=[0.8, 0.1, 0.1])]
    if how == "set":
        container[key] = value
    elif how == "remove":
        del container[key]
    elif isinstance(container, dict):
        container[str(value)[:100]] = container.pop(key)
    text = json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content, allow_unicode=False)
    path.write_text(text, encoding="utf-8", errors="replace")
    fit_manifest(path)
    return f"{path.relative_to(folder)}: {how} {key!r:.60} {value!r:.80}"


def mutate_behind_hashes(folder, random):
    """Change some bytes as `mutate_bytes` does, and make the manifest fit, so that parsers meet them; return what was done."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    what = mutate_bytes(folder, random)
    for path, changed in before.items():
        if path.stat().st_mtime_ns != changed:
            fit_manifest(path)
    return what


def fit_manifest(path):
    """Make the manifest beside a changed file list its new hash."""
    manifest = path.with_name("manifest.json")
    if manifest != path and manifest.exists():
        listed = json.loads(manifest.read_text())
        if path.name in listed["files"]:
            new = path.read_bytes()
            listed["files"][path.name] = {"sha256": hashlib.sha256(new).hexdigest(), "bytes": len(new)}
            manifest.write_text(json.dumps(listed))


def places_in(content):
    """Yield (container, key) of every value inside of nested lists and dicts."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield content, key
        if isinstance(value, dict | list):
            yield from places_in(value)


def attack(kind, original, work, number, seed, mutate):
    """Open ``number`` changed copies; return how many were refused, equal, and other, and what went wrong."""
    genuine = _opened(kind, original, work)
    counts = {"refused": 0, "equal": 0, "other": 0}
    wrong = []
    for which in range(number):
        random = np.random.default_rng([seed, which, sum(kind.encode())])
        folder = copy_of(original, work)
        what = f"{kind} {seed}/{which}: {mutate(folder, random)}"
        outcome, complaint = judge(kind, folder, genuine, mutate)
        counts[outcome] = counts.get(outcome, 0) + 1
        if complaint:
            wrong.append(f"{what}: {complaint}")
    return counts, wrong


def judge(kind, folder, genuine, mutate):
    """Open what is in a changed folder; return (outcome, what is wrong with it, or an empty text).

    An exception that is no `RLTransformerError` is wrong, and so is another content of a kind with hashes if only bytes were
    changed.
    """
    try:
        outcome = "equal" if open_it(kind, folder) == genuine else "other"
    except RLTransformerError as error:
        return "refused", "" if error.fix and error.problem else f"no advice: {error}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({place})"
    silent = outcome == "other" and kind in HASHED and mutate is mutate_bytes
    return outcome, "silently another content" if silent else ""


def _opened(kind, original, work):
    return open_it(kind, copy_of(original, work))


def copy_of(original, work):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(original, work)
    return work


BYTES_AND_VALUES = [(kind, mutate_bytes) for kind in ("store", "policy", "replay", "run", "config", "d4rl", "minari")]
BYTES_AND_VALUES += [(kind, mutate_values) for kind in ("store", "policy", "run", "config", "minari")]
