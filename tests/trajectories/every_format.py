"""Writes the same episodes in every format that a reader of this library reads."""

import gzip

import numpy as np
from gymnasium import spaces

from rl_transformer import TrajectoryDataset
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.shards import join_shards
from rl_transformer.trajectories.store_files import write_columns
from tests.trajectories.foreign_files import write_d3rlpy, write_d4rl, write_kzl, write_minari_vectors, write_rlt
from tests.trajectories.table_files import write_csv, write_hf, write_jsonl, write_lerobot, write_npz, write_parquet


def random_data(lengths=(9, 4, 7, 12, 3, 8), seed=0) -> TrajectoryDataset:
    """Episodes of random numbers, of which a text needs all digits; every second one is truncated."""
    random = np.random.default_rng(seed)
    episodes = [
        {
            "observations": random.normal(size=(length + 1, 2)).astype(np.float32),
            "actions": random.uniform(-1, 1, (length, 1)).astype(np.float32),
            "rewards": random.normal(size=length).astype(np.float32),  # as precise as d3rlpy stores them
            "terminated": number % 2 == 0,
            "truncated": number % 2 == 1,
        }
        for number, length in enumerate(lengths)
    ]
    observation = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return TrajectoryDataset.from_episodes(
        episodes, observation_space=observation, action_space=spaces.Box(-1, 1, (1,), np.float32)
    )


def write_csv_gz(folder, data):
    text = write_csv(folder / "plain.csv", data).removeprefix("csv:")
    with open(text, "rb") as plain, gzip.open(folder / "zipped.csv.gz", "wb") as zipped:
        zipped.write(plain.read())
    return f"csv:{folder / 'zipped.csv.gz'}"


def write_sharded(folder, data):
    shards = []
    for number, episodes in enumerate(np.array_split(np.arange(len(data)), min(3, len(data)))):
        shards.append((f"shard-{number}", Checker(data.spec)))
        rows = [data.trajectory(int(index)) for index in episodes]
        write_columns(folder / shards[-1][0], data.spec, rows, checker=shards[-1][1])
    return f"rlt:{join_shards(folder, data.spec, shards)}"


WRITERS = {
    "minari": lambda folder, data: write_minari_vectors("toy/same-v0", data),
    "minari with Arrow": lambda folder, data: write_minari_vectors("toy/arrow-v0", data, "arrow"),
    "d4rl": lambda folder, data: write_d4rl(folder / "same.hdf5", data),
    "rlt": lambda folder, data: write_rlt(folder / "same", data),
    "rlt in shards": lambda folder, data: write_sharded(folder / "shards", data),
    "kzl-pickle": lambda folder, data: write_kzl(folder / "same.pkl", data),
    "d3rlpy": lambda folder, data: write_d3rlpy(folder / "same.h5", data),
    "parquet": lambda folder, data: write_parquet(folder / "parquet", data),
    "csv": lambda folder, data: write_csv(folder / "same.csv", data),
    "csv.gz": write_csv_gz,
    "jsonl": lambda folder, data: write_jsonl(folder / "same.jsonl", data),
    "npz": lambda folder, data: write_npz(folder / "same.npz", data),
    "hf": lambda folder, data: write_hf(folder / "hf", data),
    "lerobot": lambda folder, data: write_lerobot(folder / "lerobot", data),
}
"""By format: functions of (folder, data) that return the URI. MINARI_DATASETS_PATH is set by the caller."""
