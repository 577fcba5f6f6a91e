"""Provide readers of logged data by URI scheme; a reader is one file and one registration.

A reader's module is imported when a URI has its scheme, and it imports the library of its file format only when it
opens something. Training from a store and running a policy need none of these libraries.
"""

from rl_transformer.trajectories.readers.interface import READERS as READERS
from rl_transformer.trajectories.readers.interface import Reader as Reader
from rl_transformer.trajectories.readers.interface import ReaderOption as ReaderOption
from rl_transformer.trajectories.readers.interface import Source as Source

READERS.register("minari", "rl_transformer.trajectories.readers.minari:MinariReader")
READERS.register("d4rl", "rl_transformer.trajectories.readers.d4rl:D4RLReader")
READERS.register("rlt", "rl_transformer.trajectories.readers.store:StoreReader")
READERS.register("dqn-replay", "rl_transformer.trajectories.readers.dqn_replay:DQNReplayReader")
READERS.register("kzl-pickle", "rl_transformer.trajectories.readers.kzl_pickle:KzlPickleReader")
READERS.register("d3rlpy", "rl_transformer.trajectories.readers.d3rlpy:D3rlpyReader")

# Tables: what their columns are is said by a mapping.
READERS.register("parquet", "rl_transformer.trajectories.readers.tables:ParquetReader")
READERS.register("csv", "rl_transformer.trajectories.readers.tables:CsvReader")
READERS.register("jsonl", "rl_transformer.trajectories.readers.tables:JsonLinesReader")
READERS.register("npz", "rl_transformer.trajectories.readers.tables:NpzReader")
READERS.register("hf", "rl_transformer.trajectories.readers.tables:HuggingFaceReader")
READERS.register("lerobot", "rl_transformer.trajectories.readers.lerobot:LeRobotReader")
