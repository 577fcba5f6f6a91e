"""A folder with a user's module and data, and registries that are as before after each test."""

import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer.cli.main import main
from rl_transformer.conditions import CONDITIONS
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.trunk.interface import TRUNKS
from rl_transformer.trajectories.readers import READERS

REGISTRIES = (CONDITIONS, ENCODERS, HEADS, READERS, TRUNKS)
PLUGIN = (Path(__file__).parent / "user_module.py").read_text()
DATA = "xyz:drives.jsonl"
PARTS = {
    "model.state_encoder": "my_encoder",
    "model.action_head": "my_head",
    "model.conditions": "[return_to_go, my_condition]",
}
SMALL = {
    "train-steps": 6,
    "checkpoint-every": 3,
    "model.hidden_size": 8,
    "model.n_layer": 1,
    "windows.context_length": 4,
    "training.batch_size": 4,
    "training.warmup_steps": 2,
    "training.threads": 1,
}


def flags(*options):
    """Return dictionaries of options as words of a command line."""
    return [word for values in options for name, value in values.items() for word in (f"--{name}", str(value))]


def train_words(output, *options, plugin="my_plugin"):
    """Return the command that trains a small policy on the user's data."""
    loaded = ["--plugin", plugin] if plugin else []
    return ["train", "fast", "--data", DATA, "--output", str(output), *loaded, *flags(SMALL, *options)]


def rlt(folder, *words, **environment):
    """Run the command in a folder, in an interpreter of its own if variables are given; return the finished process."""
    installed = Path(sys.executable).parent / "rlt"
    return run_in(folder, [str(installed if environment else "rlt"), *map(str, words)], **environment)


def run_in(folder, command, **environment):
    """Run a command in a folder and return the finished process."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def write_drives(path, num_episodes=8):
    """Write episodes of the user's environment, one per line."""
    random = np.random.default_rng(0)
    lines = []
    for _ in range(num_episodes):
        actions = np.clip(random.uniform(-0.8, 0.8) + 0.1 * random.normal(size=(10, 1)), -1, 1)
        observations = np.stack([random.normal(size=10), np.arange(10) / 10], axis=1)
        rewards = (actions[:, 0] + 1) / 2
        columns = {"observations": observations, "actions": actions, "rewards": rewards, "fuel": abs(actions[:, 0])}
        lines.append(json.dumps({name: values.tolist() for name, values in columns.items()}))
    path.write_text("\n".join(lines) + "\n")


def fill(folder):
    """Write the user's module and data into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_plugin.py").write_text(PLUGIN)
    write_drives(folder / "drives.jsonl")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _warm(warm_commands):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(warm_commands), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def ready(tmp_path_factory, _warm):
    """A folder with the user's module, data, and the run of a policy made of the module's parts."""
    folder = fill(tmp_path_factory.mktemp("ready"))
    done = rlt(folder, *train_words("run", PARTS))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the user's module and data; what is imported and registered is forgotten afterwards."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = [(copy.copy(registry._entries), copy.copy(registry._owners)) for registry in REGISTRIES]
    importlib.invalidate_caches()
    yield tmp_path
    for registry, (entries, owners) in zip(REGISTRIES, before, strict=True):
        registry._entries = entries
        registry._owners = owners
    gym.registry.pop("my_plugin/Drive-v0", None)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def refused(here, capsys):
    """Return a function that runs a command, which must end with 2 and one message, and returns the message."""

    def run(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n  fix: ") == 1
        assert "Traceback" not in message
        return message

    return run
