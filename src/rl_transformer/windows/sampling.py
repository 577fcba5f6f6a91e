"""Choose the windows of each update, as a pure function of (seed, step).

Shapes: B windows, E episodes, X of them that are drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Float, Int

STARTS = ("any", "first")
NUM_RETURN_BINS = 10


@dataclass(frozen=True)
class WindowIndex:
    """The places where windows begin."""

    rows: Int[np.ndarray, "B"]
    """First row of each window in the data."""
    trajectories: Int[np.ndarray, "B"]
    """The episode of each window."""
    shifts: Int[np.ndarray, "B 2"] | None = None
    """Rows and columns by which the images of each window are shifted; None: not at all."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, items: slice) -> WindowIndex:
        shifts = None if self.shifts is None else self.shifts[items]
        return WindowIndex(self.rows[items], self.trajectories[items], shifts)


class WindowSampler:
    """Draws windows uniformly over timesteps: an episode in proportion to its length, then any step of it.

    That is the published sampler (kzl `experiment.py`): every step of the data is a window's first
    step equally often, so windows near an episode's end are shorter than the rest.

    Args:
        offsets: (E + 1,) the rows at which episodes begin, and the end of the last one.
        trajectories: Indices of the episodes to draw from.
        seed: Seed of the run.
        start: any; or first: every window begins with its episode, for contexts as long as episodes.
        return_balance: Fraction of each batch that is drawn by return instead: first a bin of returns,
            uniformly among those that are not empty, then a window of its episodes. Rare returns are drawn more
            often, which biases the actions that follow a history wherever the window does not show the rewards
            that were received before it.
        episode_returns: The return of each episode, needed for ``return_balance``.
    """

    def __init__(
        self,
        offsets: Int[np.ndarray, "_"],
        trajectories: Int[np.ndarray, "X"],
        *,
        seed: int,
        start: str = "any",
        return_balance: float = 0.0,
        episode_returns: Float[np.ndarray, "E"] | None = None,
    ) -> None:
        if start not in STARTS or not 0 <= return_balance <= 1:
            raise RLTransformerError(
                f"start {start!r} and return_balance {return_balance} are invalid options of a sampler",
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
        # Sorted by bin, so that the steps of a bin are consecutive and a uniform draw from it is one range of numbers.
        order = np.argsort(bins, kind="stable")
        self.trajectories = np.asarray(trajectories)[order]
        lengths = offsets[self.trajectories + 1] - offsets[self.trajectories]
        self._ends = np.cumsum(lengths)  # in steps of the chosen episodes, one after the other
        self._begins = self._ends - lengths
        edges = np.searchsorted(bins[order], np.unique(bins))
        self._bin_begins = self._begins[edges]
        self._bin_ends = np.append(self._begins[edges[1:]], self._ends[-1])

    def without_balance(self) -> WindowSampler:
        """Return the same sampler without ``return_balance``, which is uniform over timesteps."""
        return self.only(self.trajectories)

    def only(self, trajectories: Int[np.ndarray, "X"]) -> WindowSampler:
        """Return a sampler of these episodes alone, uniform over timesteps."""
        return WindowSampler(self._offsets, np.sort(trajectories), seed=self.seed, start=self.start)

    @property
    def num_steps(self) -> int:
        """Return the number of windows that can be drawn."""
        return int(self._ends[-1])

    def draw(self, step: int, batch_size: int) -> WindowIndex:
        """Return the windows of update ``step``."""
        random = generator(Stream.WINDOWS, self.seed, step)
        balanced = round(self.return_balance * batch_size)
        steps = random.integers(0, self.num_steps, batch_size)
        # Windows are drawn uniformly first and then replaced, so the others are those of a run without balance.
        if balanced:
            chosen = random.integers(0, len(self._bin_begins), balanced)
            steps[:balanced] = random.integers(self._bin_begins[chosen], self._bin_ends[chosen])
        return self.locate(steps)

    def locate(self, steps: Int[np.ndarray, "B"]) -> WindowIndex:
        """Return the windows that begin at the given steps, counted through all episodes to draw from."""
        position = np.searchsorted(self._ends, steps, side="right")
        trajectories = self.trajectories[position]
        rows = self._offsets[trajectories]
        if self.start == "any":
            rows = rows + steps - self._begins[position]
        return WindowIndex(rows, trajectories)


def _bins(returns: Float[np.ndarray, "X"]) -> Int[np.ndarray, "X"]:
    """Return the bin of each return; bins of equal width reach from the smallest to the largest."""
    low = returns.min()
    high = returns.max()
    if low == high:
        return np.zeros(len(returns), dtype=np.int64)
    return np.minimum((returns - low) / (high - low) * NUM_RETURN_BINS, NUM_RETURN_BINS - 1).astype(np.int64)
