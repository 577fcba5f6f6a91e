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

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean = np.zeros(size)
        self._squares = np.zeros(size)  # sum of squared deviations from the mean

    def add(self, observations: np.ndarray) -> None:
        """Add observations (T, D)."""
        values = observations.astype(np.float64)
        count = len(values)
        mean = values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        delta = mean - self.mean
        total = self.count + count
        # Deviations of both batches refer to their own means; the last term moves them to the common mean.
        self._squares += squares + np.square(delta) * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def result(self) -> ObservationStatistics:
        """Return the statistics of all observations added so far."""
        return ObservationStatistics(self.mean.copy(), np.sqrt(self._squares / max(self.count, 1)))
