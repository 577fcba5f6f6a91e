"""Commands that write, small enough to be killed a thousand times, and what each of them leaves."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from rl_transformer import load_policy, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.runtime.files import verify_folder
from rl_transformer.trajectories.store import write_store
from tests.toys import POINT, point_data
from tests.trajectories.table_files import write_csv, write_parquet

SMALL = [
    "--model.hidden_size", "8", "--model.n_layer", "1", "--training.batch_size", "4", "--training.threads", "1",
    "--windows.context_length", "4", "--training.warmup_steps", "2",
]  # fmt: skip
LANGUAGE_MODEL = [
    "--train-steps", "6", "--checkpoint-every", "2", "--training.threads", "1", "--training.batch_size", "4",
    "--dataset.vocabulary", "300", "--dataset.length", "16", "--model.hidden_size", "16", "--model.n_layer", "1",
]  # fmt: skip
TEXT = " ".join(f"the {size} dog saw {number} birds." for number in range(60) for size in ("old", "small", "red"))


@dataclass(frozen=True)
class Writer:
    """A command that writes."""

    words: list[str]
    """Its words; ``{out}`` stands for a folder of its own."""
    again: list[str]
    """Further words with which it is repeated."""
    written: str
    """What it writes below that folder."""
    read: object
    """A function of the path that returns what a whole result holds, and raises an error for another."""

    @property
    def is_whole_or_absent(self):
        """The result gets its name in one step; otherwise it is a folder that the command goes on with."""
        return self.read not in (read_run, read_sweep, read_language_model)


def read_run(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, len(steps) + 1)), steps
    losses = [{name: value for name, value in row.items() if "second" not in name} for row in rows]
    return load_policy(path).content_hash, json.dumps(losses), (path / "finished.json").exists()


def read_store(path):
    return open_trajectories(f"rlt:{path}", verify=True).fingerprint


def read_report(path):
    content = json.loads(path.read_text())
    return json.dumps({name: value for name, value in content.items() if name not in ("seconds", "versions", "timing")})


def read_language_model(path):
    return hashlib.sha256((path / "model/model.safetensors").read_bytes()).hexdigest()


def read_sweep(path):
    content = json.loads((path / "sweep.json").read_text())
    trials = [(trial["options"], trial["score"], trial.get("refused")) for trial in content["trials"]]
    load_policy(path / content["best"]["run"])
    return json.dumps([sorted(trials, key=str), content["best"]["options"]])


def read_export(path):
    listed = verify_folder(path)["files"]
    return sorted(listed)


def read_file(path):
    return path.read_bytes()


def make_writers(root):
    """Write what the commands read below ``root``; return the commands by name."""
    data = point_data(12)
    write_store(root / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
    write_csv(root / "log.csv", data)
    write_parquet(root / "parquet", data)
    (root / "text.txt").write_text(TEXT)
    (root / "space.yaml").write_text(yaml.safe_dump({"training.learning_rate": [1e-3, 1e-4]}))
    store = f"rlt:{root / 'store'}"
    train = ["train", "gym", "--data", store, *SMALL, "--train-steps", "12", "--checkpoint-every", "3"]
    assert main([*train, "--output", str(root / "run")]) == 0
    policy = str(root / "run")
    acting = ["--num-episodes", "2", "--max-live", "2"]
    evaluated = ["--evaluation.env_id", POINT, "--evaluation.num_episodes", "1", "--evaluation.every", "6"]
    return {
        "train": Writer([*train, "--output", "{out}/it"], ["--resume"], "it", read_run),
        "train, evaluated": Writer([*train, *evaluated, "--output", "{out}/it"], ["--resume"], "it", read_run),
        "convert a store": Writer(["convert", store, "--output", "{out}/it"], [], "it", read_store),
        "convert a CSV file": Writer(["convert", f"csv:{root / 'log.csv'}", "--output", "{out}/it"], [], "it", read_store),
        "convert Parquet files": Writer(["convert", f"parquet:{root / 'parquet'}", "--output", "{out}/it"], [], "it", read_store),
        "collect": Writer(["collect", POINT, "--num-episodes", "6", "--output", "{out}/it"], [], "it", read_store),
        "collect by a policy": Writer(
            ["collect", POINT, "--policy", policy, "--num-episodes", "3", "--output", "{out}/it"], [], "it", read_store
        ),
        "evaluate": Writer(
            ["evaluate", policy, "--env-id", POINT, *acting, "--json", "{out}/it.json"], [], "it.json", read_report
        ),
        "sweep": Writer(
            ["sweep", "gym", "--data", store, *SMALL, "--train-steps", "4", "--dataset.validation_fraction", "0.2",
             "--space", str(root / "space.yaml"), "--trials", "2", "--output", "{out}/it"], [], "it", read_sweep,
        ),
        "pretrain": Writer(
            ["pretrain", "text", "--data", str(root / "text.txt"), "--output", "{out}/it", *LANGUAGE_MODEL], ["--resume"], "it", read_language_model,
        ),
        "plot": Writer(["plot", policy, "--figure", "{out}/it.png"], [], "it.png", read_file),
        "export": Writer(["export", policy, "--to", "{out}/it"], [], "it", read_export),
    }  # fmt: skip


def words_of(writer, out, *, again=False):
    """Return the words of a command that writes below ``out``."""
    return [word.replace("{out}", str(out)) for word in (*writer.words, *(writer.again if again else ()))]


def leftovers(out: Path):
    """Return what killed processes have left, except in trials that a search has given up: those are kept as they are."""
    hidden = [path.relative_to(out).as_posix() for path in out.rglob(".*") if not path.name.endswith(".lock")]
    return [name for name in hidden if "/trial-" not in name]


def empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
