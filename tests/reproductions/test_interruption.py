"""Claims about `rlt reproduce` in worker processes: stopping, continuing, and equal results."""

import json
import os
import signal
import subprocess
import sys
import time

from rl_transformer.cli.main import main


def test_a_terminated_parent_stops_its_workers_and_the_next_run_continues(tmp_path):
    command = [sys.executable, "-m", "rl_transformer", "reproduce", "stitching", "--quick", "--seeds", "4"]
    command += ["--jobs", "2", "--output", str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cells = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 120
    while not (cells.exists() and len(list(cells.glob("*.json"))) >= 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 143, output
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(kept) < 20
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ})
    assert len(list(cells.glob("*.json"))) == 20
    assert all((cells / name).stat().st_mtime_ns == changed for name, changed in kept.items())


def test_policies_in_training_are_saved_when_the_parent_is_terminated(tmp_path):
    command = [sys.executable, "-m", "rl_transformer", "reproduce", "locomotion", "--jobs", "2"]
    command += ["--output", str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while len(list((tmp_path / ".runs").glob("*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)  # the first rows are written when ten seconds of training have passed
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 143, output
    assert "same command" in output
    assert len(list((tmp_path / ".runs").glob("*/checkpoints/step-*/manifest.json"))) == 2


def test_cells_are_the_same_alone_and_in_a_pool(tmp_path):
    folders = [tmp_path / "alone" / "stitching", tmp_path / "pool" / "stitching"]
    for folder, jobs in zip(folders, ("1", "2"), strict=True):
        assert main(["reproduce", "stitching", "--quick", "--jobs", jobs, "--output", str(folder)]) == 0
    one, other = (json.loads((folder / "result.json").read_text())["rows"] for folder in folders)
    assert one == other
