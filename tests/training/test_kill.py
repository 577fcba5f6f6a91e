"""Claims about runs that die: SIGKILL at any moment loses at most one save interval and not a bit of the result."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_transformer.cli.main import main
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data
from tests.training.runs import assert_equal_runs

EVERY = 15


@pytest.fixture
def store(tmp_path):
    data = point_data()
    return write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data)))).location


def command(store, output, *more, steps):
    options = {
        "data": store, "output": output, "train-steps": steps, "checkpoint-every": EVERY, "training.threads": 1, "training.batch_size": 4,
        "model.hidden_size": 16, "model.n_layer": 1, "windows.context_length": 4, "training.ema_decay": 0.9,
    }  # fmt: skip
    flat = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "-c", "from rl_transformer.cli.main import entry; entry()", "train", "gym", *flat, *more]


def run_here(*args, **options):
    """Run a command in this process: those that nobody kills need no other."""
    assert main(command(*args, **options)[3:]) == 0


def start(*args, **options):
    return subprocess.Popen(
        command(*args, **options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


def wait_for(condition, process, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None and not condition():
        time.sleep(0.0005)


def newest(folder):
    return max((int(p.name[5:]) for p in folder.glob("step-*") if (p / "manifest.json").exists()), default=0)


def kill_again_and_again(store, folder, kills, steps):
    """Run with --resume, kill the process group ``kills`` times, half of them inside a save, then let it finish."""
    chance = random.Random(kills)
    checkpoints = folder / "checkpoints"
    inside = 0
    logs = []
    for attempt in range(kills):
        before = newest(checkpoints)
        process = start(store, folder, "--resume", steps=steps)
        wait_for(lambda: newest(checkpoints) > before, process)  # noqa: B023  called before the next round
        time.sleep(chance.uniform(0, 0.2))
        if attempt % 2:
            wait_for(lambda: any(checkpoints.glob(".step-*.tmp-*")), process)
            inside += any(checkpoints.glob(".step-*.tmp-*"))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        code, output = finish(process)
        logs.append((before, code, output))
    run_here(store, folder, "--resume", steps=steps)
    return logs, inside


def check_kills(store, tmp_path, *, kills, steps):
    run_here(store, tmp_path / "whole", steps=steps)
    logs, inside = kill_again_and_again(store, tmp_path / "killed", kills, steps)
    assert [code for _, code, _ in logs] == [-signal.SIGKILL] * kills
    assert inside >= kills // 4  # a save may end between seeing it and the kill; most do not
    for before, _, output in logs:
        resumed = re.findall(r"resumed from step (\d+)", output)
        assert [int(step) for step in resumed] == ([before] if before else []), output
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole")
    assert [row["step"] for row in read_metrics(tmp_path / "killed") if "loss" in row] == list(range(1, steps + 1))


def test_four_kills_change_nothing(store, tmp_path):
    check_kills(store, tmp_path, kills=4, steps=900)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(store, tmp_path):
    check_kills(store, tmp_path, kills=20, steps=4000)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_with_its_code(number, code, store, tmp_path):
    folder = tmp_path / "run"
    process = start(store, folder, steps=100_000)
    wait_for(lambda: newest(folder / "checkpoints") > 0, process)
    process.send_signal(number)
    exit_code, output = finish(process)
    assert exit_code == code, output
    assert "Traceback" not in output
    assert "continue with --resume" in output
    saved = newest(folder / "checkpoints")
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, saved + 1))


SLOW_POINT = """
import sys, time
from tests.toys import PointEnv
genuine = PointEnv.step
delay = float(sys.argv.pop(1))
PointEnv.step = lambda self, action: (time.sleep(delay), genuine(self, action))[1]
from rl_transformer.cli.main import main
sys.exit(main())
"""


def test_a_signal_during_an_evaluation_is_obeyed_and_the_evaluation_made_up_for(store, tmp_path):
    script = tmp_path / "run.py"
    root = Path(__file__).parents[2]
    script.write_text(SLOW_POINT)
    evaluation = ["--evaluation.env_id", "tests/Point-v0", "--evaluation.num_episodes", "1", "--evaluation.every", "30"]

    run_here(store, tmp_path / "whole", *evaluation, steps=60)
    process = subprocess.Popen(
        [sys.executable, script, "3", *command(store, tmp_path / "cut", *evaluation, steps=60)[3:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )
    wait_for(lambda: newest(tmp_path / "cut/checkpoints") >= 15, process)
    time.sleep(1.5)  # step 30 is reached in milliseconds; its evaluation would take half a minute
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 143, output
    assert newest(tmp_path / "cut/checkpoints") == 30
    run_here(store, tmp_path / "cut", *evaluation, "--resume", steps=60)
    assert_equal_runs(tmp_path / "cut", tmp_path / "whole")
