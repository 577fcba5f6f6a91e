"""Kill the conversion of a shop's log at random moments, again and again, and compare what it ends with.

    python studies/killed_conversions.py [--rows 1000000] [--kills 10] [--json FILE]

The same command is given after every kill, and goes on with what it finds. In the end, the store must have the fingerprint of a
conversion that nobody has killed, and no file of the killed ones may be left.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shop_log import write_log
from table_conversion import MAPPING

from rl_transformer import open_trajectories
from rl_transformer.runtime.machine import versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    kills: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_rows = write_log(args.rows, folder / "log")
        convert = [sys.executable, "-m", "rl_transformer", "convert", f"parquet:{folder / 'log'}", *MAPPING, "--output"]
        began = time.perf_counter()
        subprocess.run([*convert, str(folder / "whole")], check=True, capture_output=True)
        whole_seconds = time.perf_counter() - began
        attempts = 0
        while len(kills) < args.kills:
            output = folder / f"store-{attempts}"
            attempts += 1
            while len(kills) < args.kills:
                process = subprocess.Popen(
                    [*convert, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                wait = moments.uniform(0.05, 1.0) * whole_seconds
                try:
                    process.wait(wait)
                    assert process.returncode == 0
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                work = output.with_name(f".{output.name}.rows")
                sorted_parts = len(list(work.glob("part-*/manifest.json")))
                kills.append({"after_seconds": round(wait, 2), "sorted_parts": sorted_parts, "store": attempts - 1})
            if not output.exists():
                subprocess.run([*convert, str(output)], check=True, capture_output=True)
        stores = [open_trajectories(f"rlt:{folder / f'store-{i}'}", verify=True) for i in range(attempts)]
        expected = open_trajectories(f"rlt:{folder / 'whole'}").fingerprint
        same = [store.fingerprint == expected for store in stores]
        leftovers = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    result = {
        "rows": num_rows,
        "seconds_without_kills": round(whole_seconds, 2),
        "kills": kills,
        "stores": attempts,
        "same_fingerprint": same,
        "fingerprint": expected,
        "leftovers": leftovers,
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result, indent=2))
    assert all(same)
    assert not leftovers
    if args.json:
        args.json.write_text(json.dumps({**result, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
