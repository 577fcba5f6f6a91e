"""Mean and standard deviation of observations, in one pass over any amount of data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ObservationStatistics:
    """Statistics of every observation of a data set; they are stored with the data and the policy."""

    mean: np.ndarray
    """(D,) float64."""
    std: np.ndarray
    """(D,) float64, of the population."""

    @property
    def scale(self) -> np.ndarray:
        """What to divide by: std + 1e-6 as published (kzl `experiment.py`), 1 where a feature is constant.

        Dividing a constant feature by 1e-6 would turn rounding into inputs of any size.
        """
        return np.where(self.std == 0, 1.0, self.std + 1e-6)


class StreamingStatistics:
    """Merges batches of observations by the pairwise update of Chan, Golub and LeVeque (1983)."""

    def __init__(self, size: int) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(size), np.zeros(size)

    def add(self, observations: np.ndarray) -> None:
        """Take in observations (T, D)."""
        values = observations.astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        squares = np.square(values - mean).sum(axis=0)
        delta, total = mean - self.mean, self.count + count
        self._squares += squares + np.square(delta) * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def result(self) -> ObservationStatistics:
        """Return the statistics of everything taken in."""
        return ObservationStatistics(self.mean.copy(), np.sqrt(self._squares / max(self.count, 1)))
