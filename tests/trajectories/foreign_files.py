"""Writes a dataset in every format that a reader reads."""

import gzip
import pickle
import warnings

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rl_transformer import TrajectoryDataset
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


def write_replay_buffer(folder, number, columns):
    """Write a replay buffer as Dopamine does: one gzipped .npy file per column."""
    folder.mkdir(parents=True, exist_ok=True)
    for member, values in columns.items():
        with gzip.open(folder / f"$store$_{member}_ckpt.{number}.gz", "wb", compresslevel=1) as file:
            np.save(file, values)


def game_data(lengths=(4, 7, 2)):
    """Episodes of a game with three actions; the frames are noise, without one after the last action."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.integers(0, 256, (length, 1, 36, 36)).astype(np.uint8),
            "actions": random.integers(0, 3, length),
            "rewards": random.integers(-1, 2, length).astype(float),
            "terminated": True,
        }
        for length in lengths
    ]
    episodes[0]["actions"][0] = 2
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    return TrajectoryDataset.from_episodes(episodes, observation_space=space, action_space=spaces.Discrete(3))


def write_replay(folder, dataset):
    """Write a dataset of frames as one replay buffer."""
    last = np.zeros(dataset.num_steps, np.uint8)
    last[dataset.offsets[1:] - 1] = 1
    columns = {"observation": np.asarray(dataset.observations)[:, 0], "action": dataset.actions.astype(np.int32)}
    write_replay_buffer(folder, 0, {**columns, "reward": dataset.rewards.astype(np.float32), "terminal": last})
    return f"dqn-replay:{folder}"


def write_rlt(folder, dataset):
    """Write a store."""
    return write_store(folder, dataset.spec, (dataset.trajectory(i) for i in range(len(dataset)))).location


def kzl_episodes(dataset, *, timeouts=False):
    """Return the list of dicts that the script of Chen et al. (2021) pickles; it leaves out timeouts."""
    episodes = []
    for i in range(len(dataset)):
        episode = dataset.trajectory(i)
        is_last = np.arange(len(episode.rewards)) == len(episode.rewards) - 1
        episodes.append(
            {
                "observations": np.array(episode.observations),
                "next_observations": np.concatenate([episode.observations[1:], episode.final_observation[None]]),
                "actions": np.array(episode.actions),
                "rewards": np.array(episode.rewards),
                "terminals": is_last & episode.terminated,
                **({"timeouts": is_last & episode.truncated} if timeouts else {}),
            }
        )
    return episodes


def write_kzl(path, dataset, *, timeouts=True, protocol=4):
    """Write a pickled list of episodes."""
    path.write_bytes(pickle.dumps(kzl_episodes(dataset, timeouts=timeouts), protocol))
    return f"kzl-pickle:{path}"


def write_d3rlpy(path, dataset):
    """Write a dataset as d3rlpy 2 dumps a replay buffer: all arrays have a second axis."""
    with h5py.File(path, "w") as file:
        file["columns"] = ["observations", "actions", "rewards", "terminated"]
        file["num_episodes"] = len(dataset)
        for i in range(len(dataset)):
            episode = dataset.trajectory(i)
            file[f"observations_{i}"] = episode.observations
            file[f"actions_{i}"] = np.asarray(episode.actions).reshape(len(episode.rewards), -1)
            file[f"rewards_{i}"] = np.asarray(episode.rewards, np.float32)[:, None]
            file[f"terminated_{i}"] = bool(episode.terminated)
        file["version"] = "2.1"
    return f"d3rlpy:{path}"
