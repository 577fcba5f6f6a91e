"""Claims about conversions that are killed: the same command, given again, ends with the same data."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_transformer import open_trajectories

ROOT = Path(__file__).parents[3]
NUM_KILLS = int(os.environ.get("RLT_KILLS", "10"))
MAPPING = [
    "--episode", "user_id", "--order", "ts", "--gap", "30m", "--observe", "f_*", "--categorical", "segment", "item",
    "--action", "price", "--allowed", "mask_*", "--reward", "revenue", "--terminated", "churned",
]  # fmt: skip


@pytest.mark.slow
def test_a_conversion_that_is_killed_at_random_times_gives_the_same_store(tmp_path):
    subprocess.run([sys.executable, ROOT / "studies/shop_log.py", "1500000", tmp_path / "log"], check=True)

    def command(output):
        return [
            sys.executable,
            "-m",
            "rl_transformer",
            "convert",
            f"parquet:{tmp_path / 'log'}",
            *MAPPING,
            "--output",
            output,
        ]

    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole"), check=True)
    seconds = time.monotonic() - began
    expected = open_trajectories(f"rlt:{tmp_path / 'whole'}").fingerprint
    delays = random.Random(0)
    killed = 0
    while killed < NUM_KILLS and not (tmp_path / "store").exists():
        process = subprocess.Popen(command(tmp_path / "store"))
        time.sleep(delays.uniform(0.1, 0.8) * seconds)
        killed += process.poll() is None
        process.kill()
        process.wait()
    if not (tmp_path / "store").exists():
        subprocess.run(command(tmp_path / "store"), check=True)
    assert killed
    store = open_trajectories(f"rlt:{tmp_path / 'store'}", verify=True)
    assert store.fingerprint == expected
    kept = {"log", "whole", "whole-dropped.parquet", "store", "store-dropped.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == kept
