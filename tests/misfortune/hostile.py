"""Gives hostile files to every entry point, in processes that report what they import, start, connect to, read and write."""

import json
import os
import sys

import numpy as np

from rl_transformer.cli.main import main
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import child
from rl_transformer.trajectories.tables import files as table_files
from tests.hostile_files import MINARI_ID, copy_of, fit_manifest, open_it, places_in
from tests.misfortune.commands import SMALL
from tests.misfortune.corpus import CRAFTED, PLANTS, SIZES
from tests.misfortune.forked import ForkedReader, import_what_it_imports, run_forked
from tests.toys import POINT

SECONDS = 60  # a machine that is busy takes several times the seconds of one that is not
DATA = ("store", "d4rl", "minari", "replay", "parquet", "csv", "jsonl", "hf")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_STARTS = ("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "socket.", "pty.", "pickle.find_class")


def entry_points(kind, folder, out):
    """Return the commands that read a kind of file, as lists of words."""
    it = str(folder / "it")
    train = ["train", "gym", *SMALL, "--train-steps", "1", "--output", str(out / "run")]
    if kind in DATA:
        schemes = {"store": "rlt", "replay": "dqn-replay"}
        uri = {"minari": f"minari:{MINARI_ID}", "d4rl": f"d4rl:{it}.hdf5"}.get(kind, f"{schemes.get(kind, kind)}:{it}")
        written = ["--json", str(out / "it.json")]
        return [["inspect", uri, *written], ["convert", uri, "--output", str(out / "store")], [*train, "--data", uri]]
    store = f"rlt:{folder.parent / 'genuine/store/it'}"
    if kind == "config":
        return [
            ["train", "--config", f"{it}.yaml", "--data", store, "--output", str(out / "run"), "--train-steps", "1"]
        ]
    acting = ["--env-id", POINT, "--num-episodes", "1"]
    if kind == "run":
        resume = [*train, "--data", store, "--resume"]
        resume[resume.index(str(out / "run"))] = it
        return [
            resume,
            ["plot", it, "--figure", str(out / "it.png")],
            ["verify", it],
            ["train", "--config", f"{it}/config.json"],
        ]
    return [
        ["evaluate", it, *acting, "--json", str(out / "it.json")], ["targets", it], ["verify", it], ["attention", it, "--data", store],
        ["collect", POINT, "--policy", it, "--num-episodes", "1", "--output", str(out / "store")],
        [*train, "--data", store, "--init-from", it], ["import-hf", it, "--output", str(out / "imported")],
    ]  # fmt: skip


def audit(root, report):
    """Install a hook that appends to the file descriptor ``report`` what must not happen."""
    secrets = {str(root / "secret"), str(root / "secret.hdf5"), "/etc/passwd"}

    def hook(event, args):
        if event == "import":
            is_seen = str(args[0]).startswith(
                ("evil", "tests.trap", "sitecustomize", "usercustomize", "modeling", "plugin")
            )
        elif event == "open" and isinstance(args[0], str | bytes):
            # A link in a folder may lead elsewhere, as in the cache of the Hub: what it holds is then compared with its hash.
            path = os.path.abspath(os.fsdecode(args[0]))
            is_written = isinstance(args[2], int) and args[2] & _WRITES
            is_seen = path in secrets or (
                is_written and not path.startswith((str(root), "/dev/null", "/dev/shm/sem.", "/proc/self"))
            )
        elif event == "subprocess.Popen":
            is_seen = not (args[0] == "git" and "describe" in args[1])  # the version of this package, for checkpoints
        else:
            is_seen = event.startswith(_STARTS)
        if is_seen:
            os.write(report, f"{event} {args!r}"[:300].replace("\n", " ").encode() + b"\n")

    sys.addaudithook(hook)


class Attack:
    """Opens hostile files below a folder that holds ``genuine`` ones, see `hostile_files.make_all`.

    Args:
        root: The folder; nothing outside of it may be written.
    """

    def __init__(self, root):
        self.root = root.resolve()
        self.counts = {}
        self.wrong = []
        (self.root / "secret").write_text("secret\n" * 300)
        here = self.root / "here"
        here.mkdir(exist_ok=True)
        (here / "evil_module.py").write_text("run = print")

    def warm_up(self):
        """Give every command a genuine file, so that this process has imported what they need."""
        for kind in PLANTS:
            work = copy_of(self.root / "genuine" / kind, self.root / "work")
            os.environ["MINARI_DATASETS_PATH"] = str(work)
            for words in entry_points(kind, work, copy_of(self.root / "here", self.root / "out")):
                import_what_it_imports(lambda words=words: main(words), self.root / "output.txt")

    def try_file(self, seed, which):
        """Make one hostile file, and give it to one of the commands that read its kind."""
        random = np.random.default_rng([seed, which])
        kinds = list(PLANTS)
        kind = kinds[which % len(kinds)]
        plants = PLANTS[kind]
        plant = plants[random.integers(len(plants))]
        work = copy_of(self.root / "genuine" / kind, self.root / "work")
        try:
            what = plant(work, random)
        except (ValueError, KeyError):  # this file cannot be changed in this way
            what = PLANTS["csv"][0](work, random)
        out = self.root / "out"
        copy_of(self.root / "here", out)
        commands = entry_points(kind, work, out)
        words = commands[random.integers(len(commands))]
        self.run(f"{kind} {which}: {words[0]}: {what}", lambda: main(words), kind, is_audited=True)

    def run(self, what, function, kind, *, is_audited=False):
        """Run a function in a process of its own, and count how it ends."""
        report = self.root / "report.txt"
        report.write_text("")

        def watched():
            os.environ["MINARI_DATASETS_PATH"] = str(self.root / "work")
            os.chdir(self.root / "here")
            sys.path.insert(0, str(self.root / "here"))
            if is_audited:
                child.subprocess = table_files.subprocess = ForkedReader  # so that what they do is reported, too
                audit(self.root, os.open(report, os.O_WRONLY | os.O_APPEND))
            return function()

        ended = run_forked(watched, self.root / "output.txt", seconds=SECONDS)
        complaints = [ended.wrong, *dict.fromkeys(report.read_text().splitlines())]
        says_why = (
            "error: " in ended.output and "fix: " in ended.output
        ) or ": verify: " in what  # which lists promises
        if ended.code == 2 and not says_why:
            complaints.append(f"no message: {ended.output[-200:]}")
        if (self.root / "here/pwned").exists():
            complaints.append("a command was run")
            (self.root / "here/pwned").unlink()
        outcome = (
            "hangs"
            if ended.hangs
            else "crashes"
            if ended.code < 0
            else {0: "read", 2: "refused"}.get(ended.code, "tracebacks")
        )
        counts = self.counts.setdefault(kind, {"cases": 0})
        counts["cases"] += 1
        counts[outcome] = counts.get(outcome, 0) + 1
        self.wrong += [f"{what}: {complaint}" for complaint in complaints if complaint]
        return ended


def make_bombs(root, number, seed):
    """Return (name, kind, function that plants it) of ``number`` bombs: crafted ones, and sizes in JSON that are set to much."""
    bombs = [
        (f"{name} {size:.0e}", kind, lambda folder, plant=plant, size=size: plant(folder, size))
        for name, (kind, plant) in CRAFTED.items() for size in SIZES
    ]  # fmt: skip
    for kind, name in (
        ("policy", "policy.json"),
        ("policy", "manifest.json"),
        ("store", "store.json"),
        ("minari", "metadata.json"),
    ):
        path = next((root / "genuine" / kind).rglob(name))
        content = json.loads(path.read_text())
        for place, (box, key) in enumerate(places_in(content)):
            if type(box[key]) in (int, float):
                for size in SIZES:
                    bombs.append(
                        (
                            f"{name} {key}={size:.0e}",
                            kind,
                            lambda folder, n=name, p=place, s=size: _set(folder, n, p, s),
                        )
                    )
    order = np.random.default_rng(seed).permutation(len(bombs))
    crafted = len(CRAFTED) * len(SIZES)
    chosen = [i for i in order if i < crafted][: 2 * number // 3]
    chosen += [i for i in order if i >= crafted][: number - len(chosen)]
    return [bombs[i] for i in chosen]


def _set(folder, name, place, size):
    path = next(folder.rglob(name))
    content = json.loads(path.read_text())
    box, key = list(places_in(content))[place]
    box[key] = size
    path.write_text(json.dumps(content))
    fit_manifest(path)


def try_bomb(attack, bomb):
    """Open a bomb; return the processor seconds and the mebibytes that this took."""
    name, kind, plant = bomb
    work = copy_of(attack.root / "genuine" / kind, attack.root / "work")
    plant(work)

    def open_bomb():
        try:
            open_it(kind, work)
        except RLTransformerError as error:
            print(f"error: {error}", *([] if error.fix else ["without advice"]), "\n  fix: " if error.fix else "")
            return 2
        return 0

    ended = attack.run(f"bomb {name} in a {kind}", open_bomb, kind)
    return ended.cpu_seconds, ended.mebibytes
