"""Gives hostile names to everything that makes a path of a name from elsewhere, and watches every file that is touched."""

import json
import os
import re
import shutil
import string
import sys
from unittest import mock

import numpy as np

from rl_transformer import RLTransformerError, load_policy, open_trajectories
from rl_transformer.runtime.files import MANIFEST, verify_folder
from rl_transformer.runtime.paths import below
from rl_transformer.serve.stores import FolderStore
from rl_transformer.trajectories.readers.minari import MinariReader
from rl_transformer.trajectories.store import write_store
from rl_transformer.trajectories.trajectory import Trajectory
from tests.hostile_files import MINARI_ID, copy_of, fit_manifest
from tests.misfortune.forked import attack_forked
from tests.toys import point_data, untrained_policy
from tests.trajectories.foreign_files import write_minari_vectors

PIECES = [
    "..", ".", "~", "~root", "secret", "outside", "link", "/", "\\", "//", "\0", "\n", "\r", "\t", " ", "-", "--help", "C:", "\\\\host\\share",
    "%2e%2e", "%2f", "..%2f", "\u2024\u2024", "\uff0e\uff0e", "\u2215", "\uff0f", "\u202e", "\u200b", "\ud800", "$HOME", "${HOME}", "`id`", "$(id)", "*", "?",
    "[a-z]", "|", ";", "&", ":", "@", "#", "'", '"', "{0}", "{path.__class__}", "%s", "CON", "nul", "etc/passwd", "/etc/passwd", "proc/self/environ",
    "a" * 300, "a/" * 2100, ".git", ".ssh/id_rsa", "..\\..\\secret", "file:///etc/passwd", "http://127.0.0.1:9/x", "\u00e4", "\u0430",
]  # fmt: skip
"""Parts of names that lead out of a folder, or mean something else somewhere. ``link`` is a link out of every folder here."""
LEGITIMATE = string.ascii_letters + string.digits
_TOUCHES = ("os.", "shutil.", "pathlib.", "glob.")


def hostile_name(random, genuine):
    """Return a name of several pieces, or a genuine one with a piece in it."""
    pieces = [PIECES[i] for i in random.integers(len(PIECES), size=random.integers(1, 5))]
    how = random.integers(4)
    if how == 0:
        return "/".join(pieces)
    if how == 1:
        return "".join(pieces)
    at = int(random.integers(len(genuine) + 1))
    return genuine[:at] + "".join(pieces[:2]) + genuine[at:] if how == 2 else f"{genuine}/{'/'.join(pieces)}"


def legitimate_name(random, length=24):
    """Return a name of the documented form."""
    first = LEGITIMATE[random.integers(len(LEGITIMATE))]
    rest = "".join((LEGITIMATE + "._-")[i] for i in random.integers(len(LEGITIMATE) + 3, size=random.integers(length)))
    return first + rest


# Ways into the library: a name comes in as a stranger's file or request would bring it.


class Doors:
    """Everything that takes a name from elsewhere.

    Args:
        root: A folder with ``outside`` beside it, into which nothing may lead.
    """

    def __init__(self, root):
        self.root = root
        (root / "outside").mkdir()
        (root / "outside/secret").write_text("secret")
        self.inside = root / "inside"
        self.inside.mkdir()
        self.policy = untrained_policy(point_data(4), model={"hidden_size": 8, "n_layer": 1})
        self.policy.save(root / "policy")
        data = point_data(4)
        write_store(root / "store", data.spec, (data.trajectory(i) for i in range(4)))
        os.environ["MINARI_DATASETS_PATH"] = str(self.inside / "minari")
        write_minari_vectors(MINARI_ID, data)
        self.episode = data.trajectory(0)
        self.spec = data.spec
        for folder in (self.inside, self.inside / "minari"):
            (folder / "link").symlink_to(root / "outside")
        self.all = {
            "path": ("rewards.npy", self.path), "Minari id": (MINARI_ID, self.minari), "Hub": ("someone/hopper@v1", self.hub),
            "manifest of a policy": ("policy.json", self.in_policy), "manifest of a store": ("rewards.npy", self.in_store),
            "shards of a store": ("shard-0", self.shards), "manifest of a checkpoint": ("state.json", self.in_checkpoint),
            "further column": ("cost", self.column), "key of a session": ("a" * 64, self.session), "file of an export": ("policy.onnx", self.export),
        }  # fmt: skip

    # Each returns what is watched, after what it needs was written.

    def path(self, name):
        return lambda: below(self.inside, name)

    def minari(self, name):
        # Not by its URI, whose path may be one of the user: then it is said what lies there.
        return lambda: MinariReader().open(name)

    def hub(self, name):
        """The Hub's client is the one that knows its names; ours must not turn one into a local path."""

        def load():
            with mock.patch("huggingface_hub.snapshot_download", side_effect=_hub):
                load_policy(f"hub:{name}")

        return load

    def _copied(self, what):
        folder = copy_of(self.root / what, self.inside / what)
        (folder / "link").symlink_to(self.root / "outside")
        return folder

    def in_policy(self, name):
        folder = _listed(self._copied("policy"), name)
        return lambda: load_policy(folder)

    def in_store(self, name):
        folder = _listed(self._copied("store"), name)
        return lambda: open_trajectories(f"rlt:{folder}", verify=True)

    def in_checkpoint(self, name):
        folder = _listed(self._copied("policy"), name)
        return lambda: verify_folder(folder, required=("policy.json",))

    def shards(self, name):
        folder = self._copied("store")
        info = json.loads((folder / "store.json").read_text())
        (folder / "store.json").write_text(json.dumps({**info, "shards": [name]}))
        fit_manifest(folder / "store.json")
        return lambda: open_trajectories(f"rlt:{folder}", verify=True)

    def column(self, name):
        """A column of a table gives a file of a store its name."""
        e = self.episode
        extras = {name: np.arange(float(len(e.rewards)))}
        trajectory = Trajectory(e.observations, e.actions, e.rewards, terminated=True, truncated=False, extras=extras)
        shutil.rmtree(self.inside / "new", ignore_errors=True)
        return lambda: write_store(self.inside / "new", self.spec, [trajectory])

    def session(self, name):
        """Sessions are kept under hashes; a store must not rely on it."""

        def keep():
            store = FolderStore(self.inside / "sessions")
            store.put(name, {"step": 1})
            store.remove(name)
            store.keep_policy(name, self.policy)
            store.find_policy(name)
            store.remove_policy(name)

        return keep

    def export(self, name):
        from rl_transformer.export.rules import FORMAT, FORMAT_VERSION
        from rl_transformer.export.verify_export import _FIELDS, verify_export

        folder = self.inside / "export"
        folder.mkdir(exist_ok=True)
        rules = {
            **{key: [] for key in _FIELDS},
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "files": {name: {}, "policy.onnx": {}},
        }
        for file, content in {"policy.json": json.dumps(rules), "golden.npz": "", "policy.onnx": ""}.items():
            (folder / file).write_text(content)
        (folder / MANIFEST).write_text(
            json.dumps({"files": {n: {} for n in ("policy.json", "golden.npz", "policy.onnx")}})
        )
        for file in ("policy.json", "golden.npz", "policy.onnx"):
            fit_manifest(folder / file)

        def verify():
            if not verify_export(folder).holds:
                raise RLTransformerError("broken", where=folder, fix="as its report says")

        return verify


def _hub(repository, *, revision, allow_patterns):
    raise FileNotFoundError(f"{repository} at {revision} is on the Hub only")


def _listed(folder, name):
    """Let the manifest of a folder list one more file."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {
        "bytes": 6,
        "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    }  # of "secret"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


class Watch:
    """Collects what is read, made, renamed or removed outside of a folder while it is on; it stays as long as the process.

    Args:
        root: The folder.
    """

    def __init__(self, root):
        self.seen = []
        self.is_on = False
        allowed = (
            f"{os.path.realpath(root)}/",
            "/dev/null",
            "/proc/self/",
            sys.prefix,
            sys.base_prefix,
            os.path.realpath("src"),
        )
        self.allowed = tuple(path for path in allowed if path)
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if not self.is_on or (event != "open" and not event.startswith(_TOUCHES)):
            return
        for argument in args[: 1 if event.endswith("glob") else 2]:
            if isinstance(argument, str | bytes | os.PathLike) and argument not in ("", b""):
                path = os.path.normpath(os.path.abspath(os.fsdecode(argument)))
                if "/" in os.fsdecode(argument) and not path.startswith(self.allowed) and path not in self._parents:
                    self.seen.append(f"{event} {path[:200]}")

    @property
    def _parents(self):
        return {path.rstrip("/") for path in self.allowed}


def attack(root, number, seed, only):
    """Give ``number`` hostile names, and a tenth of that in legitimate ones, to every door; return the counts and what went wrong."""
    return attack_forked(root, lambda tally: _attack(root.resolve(), number, seed, only, tally))


def _attack(root, number, seed, only, tally):
    doors = Doors(root)
    chosen = {name: door for name, door in doors.all.items() if not only or name in only}
    for genuine, use in chosen.values():
        _used(use, genuine)  # imports what it needs
    outside = {path: path.stat().st_mtime_ns for path in (root / "outside").rglob("*")}
    watch = Watch(doors.inside)
    watch.allowed += tuple(str(root / name) for name in ("policy", "store"))
    for which in range(number):
        random = np.random.default_rng([seed, which])
        door = list(chosen)[which % len(chosen)]
        genuine, use = chosen[door]
        name = hostile_name(random, genuine)
        tally.judge(door, f"{name!r:.200}", lambda u=use, n=name: _judge(u, n, watch))
    assert {path: path.stat().st_mtime_ns for path in (root / "outside").rglob("*")} == outside
    for which in range(number // 10):
        random = np.random.default_rng([seed, which, 1])
        tally.judge("legitimate names", str(which), lambda r=random: _accepted(doors, r))


def _used(use, name):
    return _raised(use(name))


def _raised(call):
    try:
        call()
    except RLTransformerError as error:
        return error
    return None


def _judge(use, name, watch):
    call = use(name)
    watch.seen.clear()
    watch.is_on = True
    try:
        error = _raised(call)
    finally:
        watch.is_on = False
    assert not watch.seen, list(dict.fromkeys(watch.seen))
    assert error is None or (error.problem and error.fix)
    return "read" if error is None else "refused"


def _accepted(doors, random):
    """Check that a legitimate name is no reason for a refusal."""
    name = legitimate_name(random)
    assert below(doors.inside, name) == doors.inside / name
    error = _used(doors.minari, f"{legitimate_name(random)}/{legitimate_name(random)}-v{random.integers(100)}")
    assert "no such dataset" in error.problem, error
    organization, repository, revision = (re.sub(r"\.\.|--|[._-]$", "x", legitimate_name(random)) for _ in range(3))
    error = _used(doors.hub, f"{organization}/{repository}@{revision}")
    assert "is on the Hub only" in error.problem, error
    return "accepted"
