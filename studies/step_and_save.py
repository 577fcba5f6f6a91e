"""Compare what an update and a checkpoint cost in this checkout and in another one, in turn.

    python studies/step_and_save.py --beside CHECKOUT [--repeats 5] [--json FILE]

Each side trains the preset `gym` on the same synthetic steps of Hopper's shapes, in processes of its own: for 60 updates, for 120,
and for 120 with a checkpoint after every fourth. The differences are the time of an update and of a checkpoint; what a process needs
to start, and its last checkpoint, cancel.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rl_transformer.bench.workloads import synthetic_spec, synthetic_trajectories
from rl_transformer.runtime.machine import versions
from rl_transformer.trajectories.store import write_store

STEPS = 50_000
UPDATES = 120
CHECKPOINT_EVERY = 4


def seconds_to_train(checkout: Path, store: Path, updates: int, checkpoint_every: int) -> float:
    """Return how long a checkout's `rlt train gym` takes for some updates."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rl_transformer", "train", "gym", "--data", f"rlt:{store}"]
        command += ["--output", f"{folder}/run", "--train-steps", str(updates)]
        command += ["--training.checkpoint_every", str(checkpoint_every)]
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began


def milliseconds(checkout: Path, store: Path) -> tuple[float, float]:
    """Return the milliseconds of an update and of a checkpoint in one checkout."""
    half = seconds_to_train(checkout, store, UPDATES // 2, UPDATES)
    whole = seconds_to_train(checkout, store, UPDATES, UPDATES)
    saving = seconds_to_train(checkout, store, UPDATES, CHECKPOINT_EVERY)
    num_checkpoints = UPDATES // CHECKPOINT_EVERY - 1  # the last one is written in both runs
    return 1000 * (whole - half) / (UPDATES - UPDATES // 2), 1000 * (saving - whole) / num_checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checkouts = {"beside": args.beside.resolve(), "ours": Path(__file__).resolve().parents[1]}
    rounds: dict[str, list[tuple[float, float]]] = {side: [] for side in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        write_store(store, synthetic_spec(), synthetic_trajectories(STEPS, 1000))
        for _ in range(args.repeats):
            for side, checkout in checkouts.items():
                rounds[side].append(milliseconds(checkout, store))
    result: dict[str, object] = {"versions": versions(), "rounds_ms": rounds}
    for number, what in enumerate(("update", "checkpoint")):
        medians = {side: statistics.median(pair[number] for pair in pairs) for side, pairs in rounds.items()}
        ratios = [ours[number] / theirs[number] for ours, theirs in zip(rounds["ours"], rounds["beside"], strict=True)]
        result[f"{what}_ms"] = {side: round(value, 2) for side, value in medians.items()}
        result[f"{what}_ratio"] = {"median": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]}
    print(json.dumps(result, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
