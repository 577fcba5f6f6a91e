"""Time the conversion of a shop's log on Ray, with one and with two workers, beside the local engine, in turn.

    python studies/ray_conversion.py [--rows 1000000] [--repeats 3] [--json FILE]

Needs `pip install 'rl-transformer[ray]'`. Every run is a process of its own; starting Ray is timed apart. `plan` reads the names of
episodes, `join` reads the finished shards: these two run in one process whatever the number of workers, all else is divided.
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

from shop_log import write_log
from table_conversion import MAPPING

from rl_transformer.runtime.machine import versions

SIDES = {"local": ("local", 0), "ray_1_worker": ("ray", 1), "ray_2_workers": ("ray", 2)}


def convert(engine: str, workers: int, log: str, output: str) -> None:
    """Convert in this process, and print the seconds of its stages."""
    from rl_transformer import open_trajectories
    from rl_transformer.cli.main import main
    from rl_transformer.trajectories.tables import row_buckets, write_shards

    seconds: dict[str, float] = {}

    def timed(name, function):
        def call(*args, **kwargs):
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began

        return call

    if workers:
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_AUTH_MODE"] = "disabled"
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        timed("start", ray.init)(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    row_buckets._plan = timed("plan", row_buckets._plan)
    write_shards.join_shards = timed("join", write_shards.join_shards)
    whole = timed("convert", main)
    status = whole(["convert", f"parquet:{log}", *MAPPING, "--engine", engine, "--output", output])
    assert status == 0
    print(json.dumps({"fingerprint": open_trajectories(f"rlt:{output}").fingerprint, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("ENGINE", "WORKERS", "LOG", "OUTPUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        convert(args.one[0], int(args.one[1]), args.one[2], args.one[3])
        return
    measured: dict[str, list[dict]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        num_rows = write_log(args.rows, log)
        load = os.getloadavg()[0]
        for repeat in range(args.repeats):
            for side, (engine, workers) in SIDES.items():
                output = Path(folder) / f"{side}-{repeat}"
                command = [sys.executable, __file__, "--one", engine, str(workers), str(log), str(output)]
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                measured[side].append(json.loads(printed.splitlines()[-1]))
    fingerprints = {run["fingerprint"] for runs in measured.values() for run in runs}
    assert len(fingerprints) == 1, fingerprints
    sides = {}
    for side, runs in measured.items():
        stages = {
            name: [run["seconds"].get(name, 0.0) for run in runs] for name in ("convert", "plan", "join", "start")
        }
        medians = {name: statistics.median(values) for name, values in stages.items()}
        sides[side] = {
            "rows_per_second": round(num_rows / medians["convert"]),
            "seconds": {name: round(value, 2) for name, value in medians.items()},
            "all_seconds": [round(value, 2) for value in stages["convert"]],
        }
    machine = {"cores": os.cpu_count(), "load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)}
    result = {"rows": num_rows, "fingerprint": fingerprints.pop(), **sides, "machine": machine}
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps({**result, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
