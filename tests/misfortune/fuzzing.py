"""Changes files of every kind many times, and goes on from those changes that reach new lines of the readers."""

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import yaml

import rl_transformer
from rl_transformer.runtime import child
from rl_transformer.trajectories.tables import files as table_files
from tests.hostile_files import (
    HASHED,
    copy_of,
    judge,
    make_all,
    mutate_behind_hashes,
    mutate_bytes,
    mutate_values,
    open_it,
)
from tests.misfortune.forked import ForkedReader, run_forked

# Of every hundred changes. Those of a run cost an update of the model each, and those of the last six a process.
SHARES = {
    "store": 23, "policy": 50, "config": 3, "replay": 21, "run": 0.5, "d4rl": 0.5, "minari": 0.5,
    "parquet": 0.375, "csv": 0.375, "jsonl": 0.375, "hf": 0.375,
}  # fmt: skip
SECONDS = 60
"""What takes longer hangs."""
_KEPT = 40  # changed folders of each kind from which further changes begin
_PACKAGE = str(Path(rl_transformer.__file__).parent)
_READERS = tuple(
    f"{_PACKAGE}/{part}" for part in ("runtime", "trajectories", "config", "policy", "training/checkpoint")
)


class Hang(BaseException):
    """Opening a file takes too long."""


def ways_of(kind):
    """Return the functions that change a file of this kind."""
    values = [mutate_values] if kind in ("store", "policy", "run", "config", "minari") else []
    return [mutate_bytes, *([mutate_behind_hashes] if kind in HASHED else []), *values]


def fuzz(kind, number, seed, root, *, counts, wrong, guided=True):
    """Open ``number`` changed files of a kind below ``root``; count the outcomes and list what went wrong.

    A process of its own opens them, and another one goes on behind a file that makes it crash.
    """
    state = root / "state.txt"
    originals = root / "genuine"
    done = 0
    while done < number:
        state.write_text(str(done))

        def work(first=done):
            return _fuzz(kind, number, seed, root, originals, state, first, guided)

        ended = run_forked(work, root / "output.txt", seconds=7200)
        lines = state.read_text().splitlines()
        for line in lines[1:]:
            outcome, _, complaint = line.partition(" ")
            counts[outcome] = counts.get(outcome, 0) + 1
            if complaint:
                wrong.append(f"{kind} {seed}/{done}: {complaint}")
            done += 1
        if done < number:
            counts["crashes"] = counts.get("crashes", 0) + 1
            wrong.append(f"{kind} {seed}/{done}: {ended.wrong or ended.code}")
            done += 1


def _fuzz(kind, number, seed, root, originals, state, first, guided):
    # A reader of HDF5 and tables is a copy of this process, which starts in milliseconds.
    child.subprocess = table_files.subprocess = ForkedReader
    work = root / "work"
    genuine = open_it(kind, copy_of(originals / kind, work))
    kept = [originals / kind]
    seen = set()
    signal.signal(signal.SIGALRM, _end_hang)
    with state.open("a", buffering=1) as file:
        file.write("\n")
        for which in range(first, number):
            random = np.random.default_rng([seed, which, sum(kind.encode())])
            ways = ways_of(kind)
            mutate = ways[random.integers(len(ways))]
            base = kept[0] if random.random() < 0.5 else kept[random.integers(len(kept))]
            folder = copy_of(base, work)
            try:
                what = mutate(folder, random)
            except (ValueError, KeyError, TypeError, yaml.YAMLError):  # what is kept may have lost its form
                mutate = mutate_bytes
                what = mutate(folder, random)
            # Only of the original is it known what reading it gives.
            judged = mutate if base is kept[0] else None
            new = set()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                # Following every line costs as much as the reading, so one file in four is followed.
                with _traced(new if guided and which % 4 == 0 else None):
                    outcome, complaint = judge(kind, folder, genuine, judged)
            except Hang:
                outcome, complaint = "hangs", f"more than {SECONDS} s"
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            file.write(
                f"{outcome} {f'{what}: {complaint}' if complaint else ''}".replace("\n", " ")[:900].rstrip() + "\n"
            )
            if new - seen and len(kept) < _KEPT:
                keep = root / "kept" / str(which)
                shutil.copytree(work, keep, dirs_exist_ok=True)
                kept.append(keep)
            seen |= new
    return 0


def _end_hang(number, frame):
    raise Hang


class _traced:  # noqa: N801  a context manager, used as a function
    """Collect the lines of the readers that run inside the block."""

    def __init__(self, lines):
        self.lines = lines

    def __enter__(self):
        if self.lines is not None:
            sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(_READERS) else None

    def _line(self, frame, event, argument):
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def fuzz_kinds(root, number, seed, kinds):
    """Fuzz kinds by their shares of ``number``; return the outcomes of each and what went wrong."""
    make_all(root / "genuine")
    outcomes = {}
    wrong = []
    for kind in kinds:
        counts = {}
        shutil.rmtree(root / "kept", ignore_errors=True)
        fuzz(kind, max(1, round(number * SHARES[kind] / sum(SHARES.values()))), seed, root, counts=counts, wrong=wrong)
        outcomes[kind] = {"cases": sum(counts.values()), **counts}
        print(kind, counts, *wrong, sep="\n  ", file=sys.stderr, flush=True)
    return outcomes, wrong
