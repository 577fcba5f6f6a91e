"""Take some whole episodes of a dataset as arrays of numbers, for measurements that need not see all of it.

Shapes: N steps, E episodes, D numbers of an observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.explained_variance import categories
from rl_transformer.trajectories.mixed_rows import num_numbers, numbers_of
from rl_transformer.trajectories.wide_rows import wide_layout

MOST_STEPS = 20_000
"""Steps that are looked at; more take longer, and say no more about what holds for nearly all of them."""


@dataclass(frozen=True)
class SampledSteps:
    """Holds the steps of some episodes, which follow one another."""

    episodes: np.ndarray
    """(E,) numbers of the episodes in the dataset."""
    offsets: np.ndarray
    """(E + 1,) rows at which they begin, and N."""
    observations: np.ndarray
    """(N, D) float64: the numbers of the observations; D is 0 for images."""
    actions: np.ndarray
    """(N, A) continuous, or (N, parts) discrete."""
    rewards: np.ndarray
    """(N,)."""
    terminated: np.ndarray
    """(E,) bool."""
    is_continuous: bool

    @classmethod
    def of(cls, dataset: TrajectoryDataset, most_steps: int = MOST_STEPS) -> SampledSteps:
        """Return the steps of episodes that are spread evenly over the dataset, up to about ``most_steps``."""
        # At least a few episodes, each of which may be cut: otherwise a single long one would be the whole sample.
        share = min(1.0, most_steps / max(dataset.num_steps, 1))
        count = max(min(len(dataset), 40), round(len(dataset) * share))
        chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int))
        longest = max(most_steps // len(chosen), 50)
        lengths = dataset.lengths[chosen]
        if lengths.sum() > 2 * most_steps:
            lengths = np.minimum(lengths, longest)
        rows = [np.arange(s, s + n) for s, n in zip(dataset.offsets[chosen], lengths, strict=True)]
        # Episodes with errors are reported elsewhere, and would make every mean NaN.
        is_clean = np.array([np.isfinite(_numbers(dataset, r)).all() and _are_finite(dataset, r) for r in rows], bool)
        chosen, lengths = chosen[is_clean], lengths[is_clean]
        kept = np.concatenate([r for r, clean in zip(rows, is_clean, strict=True) if clean] or [np.zeros(0, np.int64)])
        return cls(
            chosen,
            np.concatenate([[0], np.cumsum(lengths)]),
            _numbers(dataset, kept),
            np.asarray(dataset.actions[kept]).reshape(len(kept), math.prod(dataset.actions.shape[1:])),
            np.asarray(dataset.rewards[kept]),
            np.asarray(dataset.summary.terminated[chosen]),
            dataset.spec.action_space.is_continuous,
        )

    @property
    def num_steps(self) -> int:
        """Number of steps N."""
        return len(self.rewards)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, (E,)."""
        return np.diff(self.offsets)

    @cached_property
    def episode(self) -> np.ndarray:
        """Number of each step's episode among the chosen ones, (N,)."""
        return np.repeat(np.arange(len(self.episodes)), self.lengths)

    @cached_property
    def step(self) -> np.ndarray:
        """Number of each step in its episode, (N,)."""
        return np.arange(self.num_steps) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def action_numbers(self) -> np.ndarray:
        """Continuous actions as they are, and discrete ones as columns of 0 and 1, (N, P)."""
        return self.actions.astype(np.float64) if self.is_continuous else categories(self.actions)


def _are_finite(dataset: TrajectoryDataset, rows: np.ndarray) -> bool:
    return bool(np.isfinite(dataset.actions[rows]).all() and np.isfinite(dataset.rewards[rows]).all())


def _numbers(dataset: TrajectoryDataset, at: np.ndarray) -> np.ndarray:
    """Return the numbers of some observations, without pictures and without indices of very many values."""
    rows = np.asarray(dataset.observations[at])
    space = dataset.spec.observation_space
    if space.is_wide and rows.shape[1:] != space.flat_shape:
        return rows[:, wide_layout(space).number_columns].astype(np.float64)
    return numbers_of(space, rows).reshape(len(rows), num_numbers(space)).astype(np.float64)
