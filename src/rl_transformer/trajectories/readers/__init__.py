"""Readers of logged data, by URI scheme. A reader is one file plus one registration.

A reader's module is imported when a URI asks for it, and imports its own file format library when it
opens something: neither is needed to train from a store, or to deploy a policy.
"""

from rl_transformer.trajectories.readers.interface import READERS as READERS
from rl_transformer.trajectories.readers.interface import Reader as Reader
from rl_transformer.trajectories.readers.interface import ReaderOption as ReaderOption
from rl_transformer.trajectories.readers.interface import Source as Source

READERS.register("minari", "rl_transformer.trajectories.readers.minari:MinariReader")
READERS.register("d4rl", "rl_transformer.trajectories.readers.d4rl:D4RLReader")
READERS.register("rlt", "rl_transformer.trajectories.readers.store:StoreReader")
