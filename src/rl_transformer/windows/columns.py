"""Take rows out of columns that lie in memory, in mapped files, in several mapped files, or on a GPU.

Shapes: N rows of data, B x T rows of a batch.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from rl_transformer.runtime.shapes import Int, Shaped
from rl_transformer.runtime.system import ReadAhead
from rl_transformer.trajectories.sharded_column import Column, ShardedColumn

Rows: TypeAlias = Tensor | ShardedColumn
"""The rows of a column, from which `take` takes some."""


def to_device(column: Column, device: torch.device) -> Rows:
    """Return a column where batches are cut out of it; on the CPU nothing is copied."""
    if not isinstance(column, ShardedColumn):
        return torch.from_numpy(column).to(device)
    # No tensor can span several mapped files. On a GPU the rows are in one piece.
    return column if device.type == "cpu" else torch.cat([torch.from_numpy(p).to(device) for p in column.parts])


def take(column: Rows, rows: Int[Tensor, "B T"]) -> Shaped[Tensor, "B T *item"]:
    """Return some rows of a column."""
    # In NumPy, which needs no tensor per part.
    if isinstance(column, ShardedColumn):
        return torch.from_numpy(column.take(rows.numpy()))
    # Two to five times as fast as column[rows] for vectors and images.
    return column.index_select(0, rows.view(-1)).view(*rows.shape, *column.shape[1:])


class ShardedReadAhead:
    """Announces rows of a column in several mapped files; see `runtime.system.ReadAhead`."""

    def __init__(self, column: ShardedColumn) -> None:
        self._borders = column.borders.tolist()
        self._parts = [ReadAhead.of(part) for part in column.parts]

    def announce(self, first: int, end: int) -> None:
        """Announce that rows from ``first`` up to ``end`` are read soon."""
        for part, begin, stop in zip(self._parts, self._borders[:-1], self._borders[1:], strict=True):
            if part is not None and begin < end and first < stop:
                part.announce(max(first, begin) - begin, min(end, stop) - begin)


def read_ahead_of(column: Column) -> ReadAhead | ShardedReadAhead | None:
    """Return what announces the rows of a column; None for one in memory, and where the system takes no advice."""
    if not isinstance(column, ShardedColumn):
        return ReadAhead.of(column)
    # All parts are files of one store.
    return None if ReadAhead.of(column.parts[0]) is None else ShardedReadAhead(column)
