"""Read this package's own stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.readers.interface import ReaderOption
from rl_transformer.trajectories.store import open_store


class StoreReader:
    """Opens a store in place: columns are memory-mapped, and nothing is copied."""

    usage: ClassVar[str] = "rlt:FOLDER"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "verify": ReaderOption(False, "Read every byte and compare it with the stored hashes.", bool)
    }

    def open(self, path: str, *, verify: bool = False) -> TrajectoryDataset:
        """Open the store in the folder ``path``.

        Raises:
            RLTransformerError: There is no store, or it is damaged.
        """
        return open_store(path, verify=verify)
