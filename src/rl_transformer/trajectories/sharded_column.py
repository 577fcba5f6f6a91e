"""Read a column whose rows lie in several memory-mapped arrays, one after the other, as if it were one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike


class ShardedColumn:
    """Holds the rows of a column in parts, which stay mapped: only the rows that are asked for are read.

    It has the attributes and the indexing of an array that reading needs: ``column[3]``, ``column[3:8]`` and
    ``column[rows]``. ``np.asarray(column)`` reads all of it into memory.

    Args:
        parts: Arrays (N_i, ...) of one dtype and row shape, in order.

    Raises:
        ValueError: The parts do not fit each other.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        if not parts or any((part.dtype, part.shape[1:]) != (parts[0].dtype, parts[0].shape[1:]) for part in parts):
            raise ValueError("shards have columns of different types or shapes")
        self.parts = list(parts)
        self.borders = np.cumsum([0, *map(len, parts)])
        """(S + 1,) rows at which parts begin, and N."""
        self.dtype = parts[0].dtype
        self.shape = (int(self.borders[-1]), *parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(part.size for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        # NumPy asks for this where a view would do; several mappings have no common view.
        if copy is False:
            raise ValueError("the rows lie in several arrays, so that one array of them is a copy")
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            first, end, step = rows.indices(len(self))
            # What checks and evaluation read are episodes, which follow one another.
            if step == 1:
                return self._between(first, max(first, end))
            rows = np.arange(first, end, step)
        # An index of several axes would read everything, which must not happen without being asked for.
        if not isinstance(rows, int | np.integer | np.ndarray | list):
            raise TypeError(f"a column in shards has no index {rows!r}; np.asarray(column) reads all of it")
        return self.take(np.asarray(rows))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, (*rows.shape, ...), given by their numbers or, as booleans (N,), by which they are."""
        if rows.dtype == bool:
            if rows.shape != self.shape[:1]:
                raise IndexError(f"{rows.shape} booleans for {len(self)} rows")
            rows = np.flatnonzero(rows)
        flat = rows.reshape(-1)
        flat = np.where(flat < 0, flat + len(self), flat)
        if flat.size and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"row {int(rows.max())} of {len(self)}")
        # One pass per part, however many rows of a batch lie in it: the rows themselves are few.
        which = np.searchsorted(self.borders, flat, side="right") - 1
        taken = np.empty((len(flat), *self.shape[1:]), self.dtype)
        for part in np.unique(which):
            at = np.flatnonzero(which == part)
            taken[at] = self.parts[part].take(flat[at] - self.borders[part], axis=0)
        return taken.reshape(*rows.shape, *self.shape[1:])

    def _between(self, first: int, end: int) -> np.ndarray:
        """Return rows that follow one another: a view if one part holds all of them, as it does those of an episode."""
        begin = min(int(np.searchsorted(self.borders, first, side="right")) - 1, len(self.parts) - 1)
        last = max(int(np.searchsorted(self.borders, end, side="left")), begin + 1)
        pieces = [
            self.parts[part][max(0, first - self.borders[part]) : end - self.borders[part]]
            for part in range(begin, last)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def astype(self, dtype: DTypeLike, copy: bool = True) -> Column:
        """Return the column in another dtype, in memory; itself if it has that dtype and need not be copied."""
        return self if not copy and self.dtype == dtype else np.asarray(self, dtype)

    def reshape(self, shape: tuple[int, ...]) -> Column:
        """Return the column with other axes behind the first; in memory if the first one changes, too."""
        if shape[0] == len(self):
            return ShardedColumn([part.reshape(len(part), *shape[1:]) for part in self.parts])
        return np.asarray(self).reshape(shape)


Column: TypeAlias = np.ndarray | ShardedColumn
"""The rows of all episodes, (N, ...)."""
