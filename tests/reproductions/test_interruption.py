"""Claims about `rlt reproduce` in worker processes: stopping, continuing, and equal results."""

import json
import signal
import subprocess
import sys
import time

import pytest

from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.failure_modes import Stitching
from rl_transformer.reproductions.reproduction import reproduce
from tests.reproductions.in_workers import SmallStitching

# `rlt`, with an experiment of tests/reproductions/in_workers.py in the place of stitching.
PROGRAM = """
from rl_transformer.cli.main import entry
from rl_transformer.reproductions import failure_modes
from tests.reproductions.in_workers import {name} as experiment

failure_modes.Stitching = experiment
entry()
"""


def stitching(name, output, *words):
    """Return the command that runs an experiment as `rlt reproduce stitching`, two cells at a time."""
    command = [sys.executable, "-c", PROGRAM.format(name=name), "reproduce", "stitching", "--quick", "--jobs", "2"]
    return [*command, "--output", str(output), *words]


def terminate_once(condition, command):
    """Start a command, send it SIGTERM when a condition is true, and return its exit code and output."""
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not condition() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    return started.returncode, output


def run(experiment, folder, seeds=1, jobs=1):
    """Run an experiment as `rlt reproduce stitching --quick` does, in this process; return the result's rows."""
    setup = Setup(quick=True, seeds=seeds, output=folder)
    reproduce(experiment, setup, jobs=jobs, command="rlt reproduce stitching")
    return json.loads((folder / "result.json").read_text())["rows"]


def test_a_terminated_parent_stops_its_workers_and_the_next_run_continues(tmp_path):
    command = stitching("PausingStitching", tmp_path / "out", "--seeds", "2")
    cells = tmp_path / "out" / "cells"
    code, output = terminate_once(lambda: len(list(cells.glob("*.json"))) >= 2, command)
    assert code == 143, output
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(kept) < 10
    run(SmallStitching(), tmp_path / "out", seeds=2)
    assert len(list(cells.glob("*.json"))) == 10
    assert all((cells / name).stat().st_mtime_ns == changed for name, changed in kept.items())


def test_policies_in_training_are_saved_when_the_parent_is_terminated(tmp_path):
    runs = tmp_path / ".runs"
    command = stitching("EndlessStitching", tmp_path / "out")
    code, output = terminate_once(lambda: len(list(runs.glob("*/metrics.jsonl"))) == 2, command)
    assert code == 143, output
    assert "same command" in output
    assert len(list(runs.glob("*/checkpoints/step-*/manifest.json"))) == 2


@pytest.mark.parametrize("experiment", [SmallStitching, pytest.param(Stitching, marks=pytest.mark.slow)])
def test_cells_are_the_same_alone_and_in_a_pool(experiment, tmp_path):
    alone = run(experiment(), tmp_path / "alone" / "stitching")
    assert run(experiment(), tmp_path / "pool" / "stitching", jobs=2) == alone
