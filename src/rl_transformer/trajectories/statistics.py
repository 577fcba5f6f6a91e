"""Compute mean and standard deviation of observations in one pass over any amount of data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ObservationStatistics:
    """Holds mean and standard deviation of all observations of a dataset; data and policy store them."""

    mean: np.ndarray
    """(D,) float64."""
    std: np.ndarray
    """(D,) float64: the population's standard deviation, as NumPy computes it."""

    @property
    def scale(self) -> np.ndarray:
        """Divisor of normalization: std + 1e-6, as in kzl `experiment.py`, but 1 for constant features."""
        # Divided by 1e-6, a constant feature whose value differs by rounding while acting would become a huge input.
        return np.where(self.std == 0, 1.0, self.std + 1e-6)


class StreamingStatistics:
    """Merges batches of observations by the pairwise update of Chan, Golub and LeVeque (1983).

    Args:
        size: Number of features D.
    """

    # The textbook formula E[x^2] - E[x]^2 subtracts two large numbers that are nearly equal. For features with a large
    # mean, such as positions far from the origin, little of the variance would remain, or it would become negative.
    # Sums of squared deviations from the mean, merged batch by batch, avoid that.

    # Rows are merged a fixed number at a time, so that the same rows give the same bits, however they are handed over.
    _ROWS = 4096

    def __init__(self, size: int) -> None:
        self._merged = _Moments(0, np.zeros(size), np.zeros(size))
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0

    @property
    def count(self) -> int:
        """Number of observations so far."""
        return self._merged.count + self._num_waiting

    def add(self, observations: np.ndarray) -> None:
        """Add observations (T, D)."""
        self._waiting.append(np.array(observations))  # a copy, because the caller may reuse its array
        self._num_waiting += len(observations)
        if self._num_waiting < self._ROWS:
            return
        rows = np.concatenate(self._waiting)
        full = len(rows) // self._ROWS * self._ROWS
        for first in range(0, full, self._ROWS):
            self._merged = self._merged.with_rows(rows[first : first + self._ROWS])
        self._waiting = [rows[full:]]
        self._num_waiting = len(rows) - full

    def result(self) -> ObservationStatistics:
        """Return the statistics of all observations added so far."""
        merged = self._merged
        if self._num_waiting:
            merged = merged.with_rows(np.concatenate(self._waiting))
        return ObservationStatistics(merged.mean, np.sqrt(merged.squares / max(merged.count, 1)))


@dataclass(frozen=True)
class _Moments:
    """Number, mean and sum of squared deviations from the mean of some observations."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    def with_rows(self, rows: np.ndarray) -> _Moments:
        """Return the moments of these observations and further ones (T, D) together."""
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        delta = mean - self.mean
        total = self.count + len(values)
        # Deviations of both parts refer to their own means; the last term moves them to the common mean.
        moved = np.square(delta) * (self.count * len(values) / total)
        return _Moments(total, self.mean + delta * (len(values) / total), self.squares + squares + moved)
