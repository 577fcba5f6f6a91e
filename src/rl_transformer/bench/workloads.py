"""What the benchmarks run on: the paper's model sizes and random data of Hopper's shapes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.config.presets import gym
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training_run import TrainingRun
from rl_transformer.trajectories import DataSpec, Space, Trajectory, TrajectoryDataset

SIZES: dict[str, JsonObject] = {
    "hopper": {},
    "gpt2-small": {"model.n_layer": 12, "model.n_head": 12, "model.hidden_size": 768, "training.batch_size": 16},
    "atari": {
        "model.n_layer": 6,
        "model.n_head": 8,
        "windows.context_length": 30,
        "training.batch_size": 128,
        "model.activation_function": "gelu_new",
    },
}
"""The paper's Gym model; GPT-2 small as the trunk (batch 16 to save time); the transformer of the
paper's Atari model. All read Hopper's 11 observations and 3 actions, because transformers' model takes no images."""


def make_config(size: str, precision: str) -> RunConfig:
    """Return the published recipe at a size."""
    config = gym()
    config.dataset.uri = "synthetic"
    config.set("training.precision", precision)
    for name, value in SIZES[size].items():
        config.set(name, value)
    return config


def make_run(config: RunConfig, dataset: TrajectoryDataset) -> TrainingRun:
    """Return a run that is ready for its first update and writes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        config.output = folder
        return assemble_run(config, dataset)


def synthetic_data(num_steps: int = 200_000, length: int = 500) -> TrajectoryDataset:
    """Return random data of Hopper's shapes, in memory."""
    return TrajectoryDataset.in_memory(synthetic_spec(), synthetic_trajectories(num_steps, length))


def synthetic_spec() -> DataSpec:
    """Return Hopper's spaces."""
    return DataSpec(Space.box((11,)), Space.box((3,), -1, 1), "synthetic")


def synthetic_trajectories(num_steps: int, length: int) -> Iterator[Trajectory]:
    """Yield episodes; one block of random numbers, shifted: only the size of the data matters."""
    random = np.random.default_rng(0)
    observations = random.standard_normal((length, 11), dtype=np.float32)
    actions = random.uniform(-1, 1, (length, 3)).astype(np.float32)
    rewards = random.random(length)
    for episode in range(num_steps // length):
        shift = np.float32(episode % 97 / 97)
        yield Trajectory(observations + shift, np.roll(actions, episode, axis=0), rewards + shift, truncated=True)
