"""Our own store: a folder of memory-mapped columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.readers.interface import ReaderOption
from rl_transformer.trajectories.store import open_store


class StoreReader:
    """Opens a store in place: nothing is copied."""

    usage: ClassVar[str] = "rlt:FOLDER"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "verify": ReaderOption(False, "Read every byte and compare it with the stored hashes.", bool)
    }

    def open(self, path: str, *, verify: bool = False) -> TrajectoryDataset:
        """Map the columns of the store in the folder ``path``."""
        return open_store(Path(path), verify=verify)
