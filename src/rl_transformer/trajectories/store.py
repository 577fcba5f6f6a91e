"""Write and open stores (`rlt:` URIs), which hold one memory-mapped .npy file per column."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rl_transformer.trajectories.blocks import Episodes
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.mapped_store import map_store
from rl_transformer.trajectories.store_files import store_folder, write_columns


def write_store(
    folder: str | Path, spec: DataSpec, trajectories: Episodes, *, notes: Iterable[Finding] = ()
) -> TrajectoryDataset:
    """Write trajectories to a store and return the opened store; see `write_columns`."""
    return open_store(write_columns(folder, spec, trajectories, notes=notes))


def open_store(folder: str | Path, *, verify: bool = False) -> TrajectoryDataset:
    """Open a store by mapping its columns into memory.

    Args:
        folder: A folder written by `write_store`, also one of shards.
        verify: Compare the hash of every file, which reads all bytes; otherwise only existence and sizes are checked.

    Raises:
        RLTransformerError: The folder is missing, damaged or of a later version, or its columns do not fit each other.
    """
    spec, steps, summary = map_store(folder, verify=verify)
    return TrajectoryDataset(spec, steps, summary, f"rlt:{store_folder(folder)}")
