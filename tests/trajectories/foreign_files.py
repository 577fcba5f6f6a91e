"""Writes a dataset in every format that a reader reads."""

import warnings

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rl_transformer.trajectories.store import write_store


def write_minari(dataset_id, buffers, observation_space, action_space, data_format="hdf5", **options):
    """Write episode buffers below MINARI_DATASETS_PATH."""
    options |= {"observation_space": observation_space, "action_space": action_space, "data_format": data_format}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(dataset_id, buffers, **options)
    return f"minari:{dataset_id}"


def buffers_of(dataset):
    """Return the episodes of a dataset of vectors as Minari's buffers."""
    return [_buffer(dataset.trajectory(i)) for i in range(len(dataset))]


def _buffer(trajectory):
    is_last = np.arange(len(trajectory.rewards)) == len(trajectory.rewards) - 1
    return EpisodeBuffer(
        observations=np.concatenate([trajectory.observations, trajectory.final_observation[None]]),
        actions=trajectory.actions,
        rewards=trajectory.rewards,
        terminations=is_last & trajectory.terminated,
        truncations=is_last & trajectory.truncated,
    )


def write_minari_vectors(dataset_id, dataset, data_format="hdf5"):
    """Write `telling_data`, whose observations have two numbers and whose actions have one."""
    observation = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action = spaces.Box(-1, 1, (1,), np.float32)
    return write_minari(dataset_id, buffers_of(dataset), observation, action, data_format)


def write_d4rl(path, dataset, *, tail=0, drop=()):
    """Write a D4RL file, with ``tail`` more rows that no flag ends, and without the arrays ``drop``."""
    steps = dataset.num_steps
    last = np.zeros(steps, bool)
    last[dataset.offsets[1:] - 1] = True
    terminal = np.repeat(dataset.summary.terminated, dataset.lengths) & last
    arrays = {
        "observations": np.concatenate([dataset.observations, np.full((tail, 2), -5, np.float32)]),
        "actions": np.concatenate([dataset.actions, np.zeros((tail, 1), np.float32)]),
        "rewards": np.concatenate([dataset.rewards, np.zeros(tail)]),
        "terminals": np.concatenate([terminal, np.zeros(tail, bool)]),
        "timeouts": np.concatenate([last & ~terminal, np.zeros(tail, bool)]),
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name not in drop:
                file[name] = values
    return f"d4rl:{path}"


def write_rlt(folder, dataset):
    """Write a store."""
    return write_store(folder, dataset.spec, (dataset.trajectory(i) for i in range(len(dataset)))).location
