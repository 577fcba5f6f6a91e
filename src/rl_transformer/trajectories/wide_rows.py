"""Store observations of wide spaces as indices: a one-hot vector of 100,000 numbers per step would fill any memory.

A row holds one number for every number of a box or multi_binary part and one index, counted from 0, for every discrete
part, all as float32, which is exact up to 16,777,216. Flat observations, with one-hot vectors, are what models read; they
are made batch by batch.

Shapes: T rows, R length of a row, D length of a flat observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.space_values import indices, parts_of
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.statistics import ObservationStatistics, StreamingStatistics


@dataclass(frozen=True)
class WideLayout:
    """Describes the rows of a wide space: which numbers are copied, and which are indices."""

    row_size: int
    flat_size: int
    number_columns: np.ndarray
    """Columns of a row that hold numbers."""
    number_features: np.ndarray
    """The features of a flat observation to which they are copied."""
    index_columns: np.ndarray
    """Columns of a row that hold indices."""
    first_features: np.ndarray
    """The feature of a flat observation that index 0 of each of them sets to 1."""
    sizes: np.ndarray
    """Number of values of each index."""


@lru_cache(maxsize=8)
def wide_layout(space: Space) -> WideLayout:
    """Return the layout of the rows of a wide space."""
    sizes = _sizes(space)  # 0 for a number, else the number of values of an index
    widths = np.array([size or 1 for size in sizes])
    features = np.cumsum(widths) - widths
    is_index = np.array(sizes) > 0
    columns = np.arange(len(sizes))
    return WideLayout(
        row_size=len(sizes),
        flat_size=int(widths.sum()),
        number_columns=columns[~is_index],
        number_features=features[~is_index],
        index_columns=columns[is_index],
        first_features=features[is_index],
        sizes=np.array(sizes)[is_index],
    )


def row_shape(space: Space) -> tuple[int, ...]:
    """Return the shape of one observation in the columns of a dataset: that of a flat one, unless the space is wide."""
    return (_row_size(space),) if space.is_wide else space.flat_shape


def to_rows(space: Space, values: Nested, *, where: object) -> np.ndarray:
    """Convert values with one leading axis to rows of a dataset: (T, *row_shape).

    Raises:
        RLTransformerError: The values do not have the form of the space.
    """
    if not space.is_wide:
        return space.flatten(values, where=where)
    # The first version of stores has one-hot vectors in every case.
    if isinstance(values, np.ndarray) and (values.shape[1:], values.dtype) == (space.flat_shape, space.flat_dtype):
        return _from_flat(wide_layout(space), values)
    return _to_rows(space, values, where)


def _to_rows(space: Space, values: Nested, where: object) -> np.ndarray:
    """Convert values to columns of a row, in which discrete parts of any size are indices."""
    if space.kind in ("discrete", "multi_discrete"):
        array = np.asarray(values)
        if (array.shape[1:], array.dtype) == (space.flat_shape, space.flat_dtype) and space.flat_dim > _row_size(space):
            return _from_flat(wide_layout(space), array)  # a part of an observation of the first version
        return indices(space, array, where=where).reshape(len(array), -1).astype(np.float32)
    if space.parts:
        rows = [_to_rows(part, given, f"{where}[{name}]") for name, part, given in parts_of(space, values, where)]
        return np.concatenate(rows, axis=1)
    return space.flatten(values, where=where)


def from_rows(space: Space, rows: np.ndarray) -> Nested:
    """Return the values of a wide space that `to_rows` was called on."""
    if space.parts:
        values: dict[str, Nested] = {}
        first = 0
        for name, part in space.parts:
            size = _row_size(part)
            values[name] = from_rows(part, rows[:, first : first + size])
            first += size
        return values
    if space.kind in ("discrete", "multi_discrete"):
        return space.decode_actions(rows.reshape(len(rows), *space.action_shape).astype(np.int64))
    return rows.reshape(len(rows), *space.shape)


class WideStatistics:
    """Computes mean and standard deviation of one-hot vectors from the counts of their indices, in one pass."""

    def __init__(self, space: Space) -> None:
        self._layout = wide_layout(space)
        self._numbers = StreamingStatistics(len(self._layout.number_columns))
        self._counts = np.zeros(self._layout.flat_size)
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Add rows (T, R)."""
        layout = self._layout
        self._numbers.add(rows[:, layout.number_columns])
        at = rows[:, layout.index_columns].astype(np.int64) + layout.first_features
        np.add.at(self._counts, at.reshape(-1), 1)
        self.count += len(rows)

    def result(self) -> ObservationStatistics:
        """Return the statistics of all observations added so far: (D,) each."""
        mean = self._counts / max(self.count, 1)
        std = np.sqrt(mean * (1 - mean))  # of numbers that are 0 or 1
        numbers = self._numbers.result()
        mean[self._layout.number_features] = numbers.mean
        std[self._layout.number_features] = numbers.std
        return ObservationStatistics(mean, std)


def _row_size(space: Space) -> int:
    """Return the number of columns of a row."""
    if space.kind == "discrete":
        return 1
    if space.parts:
        return sum(_row_size(part) for _, part in space.parts)
    return len(space.nvec) if space.kind == "multi_discrete" else math.prod(space.shape)


def _sizes(space: Space) -> list[int]:
    """Return, for every column of a row, the number of values of its index, or 0 for a number."""
    if space.kind == "discrete":
        return [space.n]
    if space.kind == "multi_discrete":
        return list(space.nvec)
    if space.parts:
        return [size for _, part in space.parts for size in _sizes(part)]
    return [0] * math.prod(space.shape)


def _from_flat(layout: WideLayout, flat: np.ndarray) -> np.ndarray:
    """Return rows from flat observations."""
    rows = np.zeros((len(flat), layout.row_size), np.float32)
    rows[:, layout.number_columns] = flat[:, layout.number_features]
    for column, first, size in zip(layout.index_columns, layout.first_features, layout.sizes, strict=True):
        rows[:, column] = flat[:, first : first + size].argmax(axis=1)
    return rows
