"""Which windows an update sees: a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.random_streams import Stream, generator

STARTS = ("any", "first")
NUM_RETURN_BINS = 10


@dataclass(frozen=True)
class WindowIndex:
    """Where windows begin."""

    rows: np.ndarray
    """(B,) first row of each window."""
    trajectories: np.ndarray
    """(B,) the episode it lies in."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, items: slice) -> WindowIndex:
        return WindowIndex(self.rows[items], self.trajectories[items])


class WindowSampler:
    """Draws windows uniformly over timesteps: an episode by its length, then any step of it.

    That is the published sampler (kzl `experiment.py`): every step of the data is a window's first
    step equally often, so windows near an episode's end are shorter than the rest.

    Args:
        offsets: (E + 1,) rows at which episodes begin.
        trajectories: Indices of the episodes to draw from.
        seed: Seed of the run.
        start: any; or first: every window begins with its episode, for contexts as long as episodes.
        return_balance: Share of each batch that is drawn by return instead: a bin of returns
            first, uniformly among those that are not empty, then a window of its episodes. It
            raises rare returns, and biases which actions follow a history wherever the window does
            not hold the rewards already earned.
        episode_returns: (E,), needed for ``return_balance``.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        trajectories: np.ndarray,
        *,
        seed: int,
        start: str = "any",
        return_balance: float = 0.0,
        episode_returns: np.ndarray | None = None,
    ) -> None:
        if start not in STARTS or not 0 <= return_balance <= 1:
            raise RLTransformerError(
                f"start {start!r} and return_balance {return_balance} do not describe a sampler",
                where="sampling",
                fix=f"use start {' or '.join(STARTS)}, and a return_balance between 0 and 1",
            )
        self.seed = seed
        self.start = start
        self.return_balance = return_balance
        self._offsets = offsets
        bins = np.zeros(len(trajectories), dtype=np.int64)
        if return_balance and episode_returns is not None:
            bins = _bins(episode_returns[trajectories])
        order = np.argsort(bins, kind="stable")
        self.trajectories = np.asarray(trajectories)[order]
        lengths = offsets[self.trajectories + 1] - offsets[self.trajectories]
        self._ends = np.cumsum(lengths)  # in steps of the chosen episodes, one after the other
        self._begins = self._ends - lengths
        edges = np.searchsorted(bins[order], np.unique(bins))
        self._bin_begins = self._begins[edges]
        self._bin_ends = np.append(self._begins[edges[1:]], self._ends[-1])

    def without_balance(self) -> WindowSampler:
        """Return the same sampler without ``return_balance``: uniform over timesteps."""
        return WindowSampler(self._offsets, np.sort(self.trajectories), seed=self.seed, start=self.start)

    @property
    def num_steps(self) -> int:
        """Number of windows that can be drawn."""
        return int(self._ends[-1])

    def draw(self, step: int, batch_size: int) -> WindowIndex:
        """Return the windows of update ``step``."""
        random = generator(Stream.WINDOWS, self.seed, step)
        balanced = round(self.return_balance * batch_size)
        steps = random.integers(0, self.num_steps, batch_size)
        if balanced:
            chosen = random.integers(0, len(self._bin_begins), balanced)
            steps[:balanced] = random.integers(self._bin_begins[chosen], self._bin_ends[chosen])
        return self.locate(steps)

    def locate(self, steps: np.ndarray) -> WindowIndex:
        """Return the windows that begin at the given steps of the chosen episodes."""
        position = np.searchsorted(self._ends, steps, side="right")
        trajectories = self.trajectories[position]
        rows = self._offsets[trajectories]
        if self.start == "any":
            rows = rows + steps - self._begins[position]
        return WindowIndex(rows, trajectories)


def _bins(returns: np.ndarray) -> np.ndarray:
    """Return the bin of each return, in equal widths from the smallest to the largest."""
    low = returns.min()
    high = returns.max()
    if low == high:
        return np.zeros(len(returns), dtype=np.int64)
    return np.minimum((returns - low) / (high - low) * NUM_RETURN_BINS, NUM_RETURN_BINS - 1).astype(np.int64)
