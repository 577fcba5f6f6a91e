"""Measure how long a large store takes to open, and what memory training on it needs.

    python studies/large_store.py [--steps 20000000] [--json FILE]

Writes a synthetic store (Hopper's shapes), then runs `rlt train gym` on it in a process of its own, which
reports its anonymous memory (page cache aside: the kernel may drop the mapped columns).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rl_transformer.bench.workloads import synthetic_spec, synthetic_trajectories
from rl_transformer.trajectories import open_trajectories
from rl_transformer.trajectories.store import write_store

TRAIN = """
import sys, threading, time
peak = [0]
def watch():
    while True:
        anonymous = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
        peak[0] = max(peak[0], anonymous)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
from rl_transformer.cli.main import main
code = main(sys.argv[1:])
print("PEAK", peak[0])
sys.exit(code)
"""
TRAIN_STEPS = 50
OPENINGS = 5


def seconds_to_open(store):
    """Return how long it takes to open a store."""
    began = time.perf_counter()
    open_trajectories(f"rlt:{store}")
    return time.perf_counter() - began


def training_memory_kib(store, output):
    """Return the peak anonymous memory of a training run on a store."""
    arguments = ["train", "gym", "--data", f"rlt:{store}", "--output", str(output), "--train-steps", str(TRAIN_STEPS)]
    result = subprocess.run([sys.executable, "-c", TRAIN, *arguments], capture_output=True, text=True, check=True)
    return int(result.stdout.split("PEAK ")[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        began = time.perf_counter()
        write_store(store, synthetic_spec(), synthetic_trajectories(args.steps, 1000))
        write_seconds = time.perf_counter() - began
        open_seconds = [seconds_to_open(store) for _ in range(OPENINGS)]
        memory = training_memory_kib(store, Path(folder) / "run")
    result = {
        "steps": args.steps,
        "write_seconds": round(write_seconds, 1),
        "open_seconds_median": round(statistics.median(open_seconds), 4),
        "peak_anonymous_mib": round(memory / 1024),
    }
    print(json.dumps(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
