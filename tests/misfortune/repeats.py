"""Trains the same run twice, in other places, interpreters and with other options that must not matter, and compares the bytes."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from rl_transformer.cli.main import main
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories.store import write_store
from tests.misfortune.commands import LANGUAGE_MODEL, TEXT
from tests.misfortune.forked import import_what_it_imports, run_forked
from tests.misfortune.tally import Tally
from tests.toys import POINT, TOLL, camera_data, point_data, toll_data

STEPS = 24
HASH_SEEDS = (0, 1, 42)
"""Of the interpreters: the order of sets of texts follows from it."""
SMALL = [
    "--model.hidden_size", "8", "--model.n_layer", "1", "--training.batch_size", "4", "--training.threads", "1",
    "--windows.context_length", "3", "--training.warmup_steps", "2", "--train-steps", str(STEPS),
]  # fmt: skip
COST = ["--model.conditions", '["return_to_go", "cost_to_go"]']
KINDS = {
    "decision transformer": ("point", POINT, []),
    "behavior cloning": ("point", POINT, ["--model.arch", "behavior_cloning"]),
    "gaussian": ("point", POINT, ["--model.action_head", "gaussian", "--training.entropy_weight", "0.1", "--training.precision", "bfloat16"]),
    "average": ("point", POINT, ["--training.ema_decay", "0.9", "--training.schedule", "cosine"]),
    "two conditions": ("toll", TOLL, COST),
    "expected returns": ("point", POINT, ["--returns.label", "expected", "--returns.bins", "5", "--returns.folds", "2"]),
    "images": ("camera", None, ["--training.image_shift", "2"]),
    "language model": ("text", None, None),
}  # fmt: skip
"""Data, environment and options by name; the last is `rlt pretrain text`."""


def evaluated(env_id, *more):
    """Return the words that evaluate a policy in an environment while it is trained."""
    targets = ["--evaluation.targets", '{"cost_to_go": 100}'] if env_id == TOLL else []
    return [
        "--evaluation.env_id",
        env_id,
        "--evaluation.num_episodes",
        "3",
        "--evaluation.every",
        "10",
        *targets,
        *more,
    ]


VARIANTS = {
    "place": lambda env_id: ([], []),
    "save interval": lambda env_id: (["--checkpoint-every", "5"], ["--checkpoint-every", "9"]),
    "evaluation": lambda env_id: ([], evaluated(env_id)),
    "episodes at once": lambda env_id: tuple(evaluated(env_id, "--evaluation.max_live", most) for most in "13"),
}
"""Options of the two runs of a pair."""


def pairs():
    """Return (kind, variant) of every pair that differs in something."""
    found = [(kind, "place") for kind in KINDS]
    found += [(kind, "save interval") for kind in KINDS]
    found += [(kind, name) for name in ("evaluation", "episodes at once") for kind, it in KINDS.items() if it[1]]
    return found


def words_of(kind, extra, seed):
    """Return the words of a command; its paths are relative to the folder in which it runs."""
    data, _, options = KINDS[kind]
    if options is None:
        kept = [
            word
            for i, word in enumerate(LANGUAGE_MODEL)
            if "--checkpoint-every" not in LANGUAGE_MODEL[max(0, i - 1) : i + 1]
        ]
        return [
            "pretrain",
            "text",
            "--data",
            "../text.txt",
            "--output",
            "run",
            *kept,
            "--training.seed",
            str(seed),
            *extra,
        ]
    return [
        "train",
        "gym",
        "--data",
        f"rlt:../{data}",
        "--output",
        "run",
        *SMALL,
        *options,
        "--training.seed",
        str(seed),
        *extra,
    ]


def write_data(root):
    """Write what the commands read."""
    for name, data in {"point": point_data(8), "toll": toll_data(8), "camera": camera_data(6)}.items():
        write_store(root / name, data.spec, (data.trajectory(i) for i in range(len(data))))
    (root / "text.txt").write_text(TEXT)


class Interpreter:
    """An interpreter with a hash seed of its own that runs commands, each in a copy of itself.

    Args:
        hash_seed: PYTHONHASHSEED.
        root: Folder for what its commands print.
    """

    def __init__(self, hash_seed, root):
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from tests.misfortune.repeats import serve; serve()"
        self.output = root / f"output-{hash_seed}.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder, words):
        """Run a command in a folder; raise an error if it does not end well."""
        self.process.stdin.write(json.dumps([str(folder), words, str(self.output)]) + "\n")
        self.process.stdin.flush()
        code, output = json.loads(self.process.stdout.readline())
        assert code == 0, f"exit code {code}: {output[-500:]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def serve():
    """Run the commands that come in, until there are no more."""
    warm = False
    for line in sys.stdin:
        folder, words, output = json.loads(line)

        def command(folder=folder, words=words):
            os.chdir(folder)
            return main(words)

        if not warm:  # so that later copies need not import; its result is in the way then
            import_what_it_imports(command, Path(output))
            shutil.rmtree(Path(folder) / "run", ignore_errors=True)
            warm = True
        ended = run_forked(command, Path(output), seconds=300)
        print(json.dumps([ended.code, ended.output]), flush=True)


def compare(one, other, *, is_same_command):
    """Check that two runs are the same to the byte, as far as their commands are the same."""
    if is_same_command:
        files = [sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()) for run in (one, other)]
        assert files[0] == files[1]
        for name in files[0]:
            if name.name != "timing.jsonl":
                assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"
        return "equal"
    for folder in ("policy", "model"):
        names = [sorted(path.name for path in (run / folder).glob("*")) for run in (one, other)]
        assert names[0] == names[1]
        for name in names[0]:
            assert (one / folder / name).read_bytes() == (other / folder / name).read_bytes(), (
                f"{folder}/{name} differs"
            )
    rows = [
        [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line] for run in (one, other)
    ]
    assert rows[0] == rows[1], "metrics.jsonl differs"
    assert len(rows[0]) > 0
    return "equal"


def attack(root, number, seed, only):
    """Train ``number`` pairs; return the counts by what differs and what went wrong."""
    tally = Tally()
    write_data(root)
    with ExitStack() as stack:
        interpreters = [stack.enter_context(Interpreter(hash_seed, root)) for hash_seed in HASH_SEEDS]
        for which in range(number):
            kind, variant = pairs()[which % len(pairs())]
            chosen = [interpreters[(which + side) % len(interpreters)] for side in range(2)]
            sides = list(zip(chosen, VARIANTS[variant](KINDS[kind][1]), ("here", "elsewhere"), strict=True))
            tally.judge(
                variant, f"{which}: {kind}", lambda k=kind, s=sides, n=which, v=variant: _pair(root, k, s, seed + n, v)
            )
        tally.report("place")
    return tally.parts, tally.wrong


def _pair(root, kind, sides, seed, variant):
    for interpreter, extra, folder in sides:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()
        interpreter.run(root / folder, words_of(kind, extra, seed))
    outcome = compare(root / "here/run", root / "elsewhere/run", is_same_command=variant == "place")
    if variant == "episodes at once":
        # Not to the bit: how sums are rounded depends on how many episodes act at once. Training does not.
        scores = [
            [v for row in read_metrics(root / side / "run") for n, v in row.items() if n.startswith("return_at")]
            for side in ("here", "elsewhere")
        ]
        np.testing.assert_allclose(*scores, rtol=1e-5)
        assert scores[0]
    return outcome
