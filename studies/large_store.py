"""How long a large store takes to open, and what memory training on it needs.

    python studies/large_store.py [--steps 20000000] [--json FILE]

Writes a synthetic store (Hopper's shapes), then runs `rlt train gym` on it in a process of its own, which
reports its anonymous memory (page cache aside: the mapped columns are the kernel's to drop).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rl_transformer.bench.train import synthetic_spec, synthetic_trajectories
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000_000)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store, began = Path(folder) / "store", time.perf_counter()
        write_store(store, synthetic_spec(), synthetic_trajectories(args.steps, 1000))
        written = time.perf_counter() - began
        opened = []
        for _ in range(5):
            began = time.perf_counter()
            open_trajectories(f"rlt:{store}")
            opened.append(time.perf_counter() - began)
        arguments = [
            "train",
            "gym",
            "--data",
            f"rlt:{store}",
            "--output",
            str(Path(folder) / "run"),
            "--train-steps",
            "50",
        ]
        done = subprocess.run([sys.executable, "-c", TRAIN, *arguments], capture_output=True, text=True, check=True)
    result = {
        "steps": args.steps,
        "write_seconds": round(written, 1),
        "open_seconds_median": round(sorted(opened)[2], 4),
        "peak_anonymous_mib": round(int(done.stdout.split("PEAK ")[1]) / 1024),
    }
    print(json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
