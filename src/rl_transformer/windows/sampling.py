"""Which windows an update sees: a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError

_SITE = 0x5A  # keeps these draws apart from every other draw of the same (seed, step)
STARTS = ("any", "first")
NUM_RETURN_BINS = 10


@dataclass(frozen=True)
class WindowIndex:
    """Where windows begin."""

    rows: np.ndarray
    """(B,) first row of each window."""
    trajectories: np.ndarray
    """(B,) the episode it lies in."""


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
        self.seed, self.start, self.return_balance = seed, start, return_balance
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

    def over_timesteps(self) -> WindowSampler:
        """Return the same sampler without balance: uniform over timesteps."""
        return WindowSampler(self._offsets, np.sort(self.trajectories), seed=self.seed, start=self.start)

    @property
    def num_steps(self) -> int:
        """Number of windows that can be drawn."""
        return int(self._ends[-1])

    def draw(self, step: int, batch_size: int) -> WindowIndex:
        """Return the windows of update ``step``."""
        random = np.random.default_rng([self.seed, step, _SITE])
        balanced = round(self.return_balance * batch_size)
        steps = random.integers(0, self.num_steps, batch_size)
        if balanced:
            chosen = random.integers(0, len(self._bin_begins), balanced)
            begins, ends = self._bin_begins[chosen], self._bin_ends[chosen]
            steps[:balanced] = random.integers(begins, ends)
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
    low, high = returns.min(), returns.max()
    if low == high:
        return np.zeros(len(returns), dtype=np.int64)
    return np.minimum((returns - low) / (high - low) * NUM_RETURN_BINS, NUM_RETURN_BINS - 1).astype(np.int64)


def top_trajectories(episode_returns: np.ndarray, lengths: np.ndarray, fraction: float) -> np.ndarray:
    """Return the best episodes that hold at most ``fraction`` of all *timesteps*, at least one.

    This is the %BC filter of the paper's code (kzl `experiment.py`, with ``<=``).
    """
    order = np.argsort(-episode_returns, kind="stable")
    steps = np.cumsum(lengths[order])
    kept = max(1, int(np.searchsorted(steps, fraction * steps[-1] * (1 + 1e-12), side="right")))
    return np.sort(order[:kept])


def split_trajectories(num_trajectories: int, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split episodes into those to train on and a share to hold out, by a draw that is fixed by the seed."""
    if not fraction:
        return np.arange(num_trajectories), np.arange(0)
    held_out = max(1, round(fraction * num_trajectories))
    if not 0 < fraction < 1 or held_out >= num_trajectories:
        raise RLTransformerError(
            f"holding out {fraction} of {num_trajectories} episodes leaves none to train on",
            where="dataset.validation_fraction",
            fix="choose a smaller fraction, or 0",
        )
    order = np.random.default_rng([seed, 0, _SITE + 1]).permutation(num_trajectories)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
