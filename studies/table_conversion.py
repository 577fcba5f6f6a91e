"""Time the conversion of a shop's log to episodes, beside Polars grouping the same rows, in turn.

    python studies/table_conversion.py [--rows 5000000] [--repeats 3] [--beside CHECKOUT] [--json FILE]

``--beside`` times ``rlt convert`` of another checkout of this repository in turn, too, and compares what both write. On a busy machine
seconds of the processors say more than those of the clock. Memory is that of the largest process of each side.

Needs `pip install polars`. Both sides are processes of their own, imports included: `rlt convert` reads, sorts, cuts at pauses, drops
copies, checks and writes a store; Polars reads, drops copies, sorts, cuts at pauses, computes returns-to-go and writes Parquet.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shop_log import write_log

from rl_transformer.runtime.machine import versions

MAPPING = [
    "--episode", "user_id", "--order", "ts", "--gap", "30m", "--observe", "f_*", "--categorical", "segment", "item",
    "--action", "price", "--allowed", "mask_*", "--reward", "revenue", "--terminated", "churned",
]  # fmt: skip
POLARS = """
import sys
import polars as pl
rows = pl.scan_parquet(sys.argv[1] + "/*.parquet").drop_nulls("f_basket").unique().sort("user_id", "ts").collect()
first = (pl.col("user_id") != pl.col("user_id").shift()) | (pl.col("ts").diff() > pl.duration(minutes=30))
first |= pl.col("churned").shift()
rows = rows.with_columns(episode=first.fill_null(True).cum_sum())
rows = rows.with_columns(return_to_go=pl.col("revenue").cum_sum(reverse=True).over("episode"))
rows.write_parquet(sys.argv[2])
print(rows["episode"].n_unique())
"""


def run(command: list[str], checkout: Path | None = None) -> tuple[float, float, float]:
    """Return the seconds, the peak memory in MiB, and the processors' seconds of a command and its processes."""
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout.resolve() / "src")
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
    if status:
        raise RuntimeError(f"{command[:3]} failed")
    assert isinstance(usage, resource.struct_rusage)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checkouts = {"ours": None} if args.beside is None else {"beside": args.beside, "ours": None}
    measured: dict[str, list[tuple[float, float, float]]] = {side: [] for side in (*checkouts, "polars")}
    written = set()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        num_rows = write_log(args.rows, log)
        for _ in range(args.repeats):
            store = Path(folder) / "store"
            output = ["--output", str(store)]
            convert = [sys.executable, "-m", "rl_transformer", "convert", f"parquet:{log}", *MAPPING, *output]
            for side, checkout in checkouts.items():
                measured[side].append(run(convert, checkout))
                written.add(json.loads((store / "store.json").read_text())["fingerprint"])
                shutil.rmtree(store)
                (store.with_name("store-dropped.parquet")).unlink()
            measured["polars"].append(run([sys.executable, "-c", POLARS, str(log), str(Path(folder) / "out.parquet")]))
    rows = {
        side: {
            "seconds": round(statistics.median(seconds for seconds, _, _ in values), 2),
            "rows_per_second": round(num_rows / statistics.median(seconds for seconds, _, _ in values)),
            "peak_memory_mib": round(max(memory for _, memory, _ in values)),
            "processor_seconds": round(statistics.median(seconds for _, _, seconds in values), 2),
        }
        for side, values in measured.items()
    }
    result = {"rows": num_rows, **rows, "ratio": round(rows["ours"]["seconds"] / rows["polars"]["seconds"], 2)}
    if args.beside is not None:
        result["ratios_to_beside"] = {
            name: round(rows["ours"][name] / rows["beside"][name], 3) for name in ("seconds", "processor_seconds")
        }
        result["same_fingerprint"] = len(written) == 1
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps({**result, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
