"""Claims about commands that run environments of others: whatever these do, the command says so and writes nothing wrong."""

import contextlib
import os
import signal
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, evaluate, load_policy
from rl_transformer.cli import inspect as inspect_command
from rl_transformer.cli.main import main
from rl_transformer.runtime.workers import run_in_processes
from tests.toys import PointEnv

ENV = "tests/Bad-v0"


class BadEnv(PointEnv):
    """The point, whose constructor, reset or step does something else, in the third step or at once."""

    fault = ""

    def __init__(self):
        super().__init__()
        self.act("init")

    def act(self, when):
        where, _, what = self.fault.partition(" ")
        if where == when and what == "exit":
            sys.exit(0)
        if where == when and what == "loop":
            while True:
                pass
        if where == when and what == "sleep":
            time.sleep(600)
        if where == when and what == "swallow":
            with contextlib.suppress(BaseException):
                time.sleep(600)
        if where == when and what == "OSError":
            raise OSError(28, "No space left on device")

    def reset(self, *, seed=None, options=None):
        self.act("reset")
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps < 3:
            return observation, reward, terminated, truncated, info
        self.act("step")
        changed = {
            "four": (observation, reward, terminated, info),
            "rewards": (observation, np.ones(2), terminated, truncated, info),
            "shape": (observation[:1], reward, terminated, truncated, info),
        }
        return changed.get(self.fault, (observation, reward, terminated, truncated, info))

    def close(self):
        self.act("close")


@pytest.fixture
def fault(monkeypatch):
    gym.register(ENV, entry_point=BadEnv, disable_env_checker=True, order_enforce=False)
    yield lambda text: monkeypatch.setattr(BadEnv, "fault", text)
    del gym.registry[ENV]


FAULTS = {
    "init exit": "SystemExit: 0",
    "init OSError": "No space left",
    "reset exit": "its reset() raised SystemExit: 0",
    "reset OSError": "its reset() raised OSError",
    "step exit": "its step() raised SystemExit: 0",
    "step OSError": "its step() raised OSError",
    "four": "its step() returns a tuple of 4 and not five values",
    "rewards": "its reward is an array of shape (2,)",
    "shape": "its observation has shape (1,), and its space (2,)",
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_command_that_runs_an_environment_blames_it(name, fault, ready, tmp_path, capsys):
    fault(name)
    out = str(tmp_path / "out")
    quick = ["--model.hidden_size", "8", "--model.n_layer", "1", "--training.threads", "1", "--train-steps", "2"]
    evaluated = ["--evaluation.env_id", ENV, "--evaluation.on_error", "stop", "--evaluation.num_episodes", "1"]  # fmt: skip
    for words in (
        ["evaluate", str(ready / "run"), "--env-id", ENV, "--num-episodes", "1", "--json", out],
        ["collect", ENV, "--num-episodes", "1", "--output", out],
        ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "run"), *quick, *evaluated],
    ):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert FAULTS[name] in error
        assert ENV in error
        assert not os.path.exists(out)
    assert not (tmp_path / "run/policy").exists()


def test_a_fault_while_closing_costs_no_result(fault, ready, tmp_path):
    fault("close exit")
    assert main(["evaluate", str(ready / "run"), "--env-id", ENV, "--num-episodes", "1", "--json", str(tmp_path / "r")]) == 0  # fmt: skip
    assert main(["collect", ENV, "--num-episodes", "1", "--output", str(tmp_path / "s")]) == 0
    assert (tmp_path / "s/manifest.json").exists()
    assert (tmp_path / "r").exists()


def test_code_that_ends_the_program_never_ends_a_command_with_success(ready, monkeypatch, capsys):
    monkeypatch.setattr(inspect_command, "run", lambda args: sys.exit(0))
    assert main(["inspect", f"rlt:{ready / 'store'}"]) == 2
    assert "was ended by code that it runs (SystemExit: 0)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["step loop", "step sleep", "step swallow", "reset loop", "close sleep"])
def test_a_step_that_hangs_ends_an_evaluation_and_no_training(name, fault, ready, tmp_path, capsys):
    fault(name)
    before = signal.getsignal(signal.SIGALRM)
    words = ["evaluate", str(ready / "run"), "--env-id", ENV, "--num-episodes", "1", "--step-timeout", "0.2"]
    assert main(words) == (0 if name.startswith("close") else 2)
    said = capsys.readouterr()
    what = "its close() raised TimeIsUp" if name.startswith("close") else f"its {name.split()[0]}() takes more than 0.2 seconds"  # fmt: skip
    assert what in said.out + said.err
    assert ENV in said.out + said.err
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]) == (before, 0.0)


@pytest.mark.parametrize("name", ["step loop", "reset sleep"])
@pytest.mark.parametrize("is_random", [True, False])
def test_a_step_that_hangs_ends_a_collection_and_nothing_is_written(name, is_random, fault, ready, tmp_path, capsys):
    fault(name)
    before = signal.getsignal(signal.SIGALRM)
    actions = [] if is_random else ["--policy", str(ready / "run")]
    words = [
        "collect",
        ENV,
        "--num-episodes",
        "2",
        "--output",
        str(tmp_path / "store"),
        "--step-timeout",
        "0.2",
        *actions,
    ]
    assert main(words) == 2
    assert f"{ENV}: its {name.split()[0]}() takes more than 0.2 seconds" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]) == (before, 0.0)


def test_training_goes_on_when_a_step_of_its_evaluation_hangs(fault, ready, tmp_path):
    fault("step loop")
    out = str(tmp_path / "run")
    quick = ["--model.hidden_size", "8", "--model.n_layer", "1", "--training.threads", "1", "--train-steps", "2"]
    evaluated = ["--evaluation.env_id", ENV, "--evaluation.num_episodes", "1", "--evaluation.step_timeout", "0.2"]
    assert main(["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", out, *quick, *evaluated]) == 0
    assert (tmp_path / "run/policy").exists()


def test_a_limit_that_cannot_be_kept_is_refused(ready):
    policy = load_policy(ready / "run")
    problems = []

    def try_it():
        with pytest.raises(RLTransformerError) as caught:
            evaluate(policy, PointEnv(), num_episodes=1, step_timeout=1.0)
        problems.append(caught.value.problem)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert problems == ["needs the main thread of the process, and this is another one"]
    with pytest.raises(RLTransformerError, match="is 0"):
        evaluate(policy, PointEnv(), num_episodes=1, step_timeout=0)


def test_a_worker_that_ends_is_named():
    for end in (lambda which: os._exit(0), lambda which: os.kill(os.getpid(), 9)):
        with pytest.raises(RLTransformerError, match="a process that ran episodes has died"):
            run_in_processes(end, 2)
    with pytest.raises(SystemExit):
        run_in_processes(lambda which: sys.exit(0), 2)
