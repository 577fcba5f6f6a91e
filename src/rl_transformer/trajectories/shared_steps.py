"""Find steps that occur in several episodes, such as those of windows that overlap, by hashes of their content.

Shapes: N steps, W runs of steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding

OVERLAP = "overlapping episodes"
RUN = 4
"""Steps in a row that have to be the same."""

_MOST_STEPS = 2_000_000
# Where observations have few values, as on a grid, honest episodes share steps.
_FEWEST_VALUES = 100
_SAMPLE = 5_000
_FEWEST_PAIRS = 20


def step_hashes(dataset: TrajectoryDataset, *, always: bool = False) -> np.ndarray | None:
    """Return a hash of each step's observation, action and reward (N,).

    None where equal steps of different episodes say nothing, or take long to find, unless ``always`` is set.
    """
    is_telling = 0 < dataset.num_steps <= _MOST_STEPS and _has_many_values(dataset)
    if not is_telling and not always:
        return None
    hashed = _row_hashes(np.asarray(dataset.observations))
    # Order matters, so that an action and a reward that trade places are another step.
    with np.errstate(over="ignore"):
        for column in (dataset.actions, dataset.rewards):
            hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + _row_hashes(np.asarray(column))
    return hashed if always or not _recur_by_chance(hashed, np.asarray(dataset.offsets)) else None


def episode_hashes(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a hash of the steps of each episode (E,)."""
    # Weighed by the step: otherwise episodes with the same steps in another order would be equal.
    step = np.arange(len(hashes)) - np.repeat(offsets[:-1], np.diff(offsets))
    with np.errstate(over="ignore"):
        mixed = (hashes ^ (hashes >> np.uint64(31))) * (step.astype(np.uint64) * np.uint64(2) + np.uint64(1))
        return np.add.reduceat(mixed ^ (mixed >> np.uint64(29)), offsets[:-1])


def run_hashes(hashes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of all runs of `RUN` steps within episodes (W,), and the rows at which they begin (W,)."""
    if len(hashes) < RUN:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    count = len(hashes) - RUN + 1
    runs = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for index in range(RUN):
            runs = runs * np.uint64(0xD1342543DE82EF95) + hashes[index : index + count]
    rows = np.arange(count)
    inside = rows + RUN <= offsets[np.searchsorted(offsets, rows, side="right")]
    return runs[inside], rows[inside]


def episode_of(rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the number of the episode in which each row (W,) lies."""
    return np.searchsorted(offsets, rows, side="right") - 1


def overlapping_episodes(dataset: TrajectoryDataset) -> Iterator[Finding]:
    """Yield a warning if episodes begin inside of other ones."""
    hashes = step_hashes(dataset)
    if hashes is None:
        return
    offsets = np.asarray(dataset.offsets)
    runs, rows = run_hashes(hashes, offsets)
    episode = episode_of(rows, offsets)
    # Paths of one policy may meet and go on together, from the middle of both; only windows begin inside of another one.
    is_first = rows == offsets[episode]
    order = np.argsort(runs[~is_first], kind="stable")
    inner_runs, inner_rows = runs[~is_first][order], rows[~is_first][order]
    if not len(inner_runs):
        return
    own = episode[is_first]
    # Equal runs lie side by side: the first one of them, or the last one where that is of the episode itself.
    at = np.minimum(np.searchsorted(inner_runs, runs[is_first]), len(inner_runs) - 1)
    last = np.searchsorted(inner_runs, runs[is_first], side="right") - 1
    at = np.where(episode_of(inner_rows[at], offsets) == own, last, at)
    found = (inner_runs[at] == runs[is_first]) & (episode_of(inner_rows[at], offsets) != own)
    which = own[found]
    if which.size:
        others = inner_rows[at[found]]
        positions = [
            {"episode": int(e), "step": 0, "other episode": int(other), "other step": int(row - offsets[other])}
            for e, row, other in zip(which, others, episode_of(others, offsets), strict=True)
        ][:MAX_POSITIONS]
        problem = "begins with steps that also lie inside another episode, as overlapping windows do"
        fix = "cut episodes that do not overlap; never split such data into training and test data"
        yield Finding("warning", OVERLAP, "episode", problem, fix, which.size, positions)


def _recur_by_chance(hashes: np.ndarray, offsets: np.ndarray) -> bool:
    """Return True if most of the steps that occur in several episodes go on differently there.

    Copies go on alike. Where there are only some hundred states, as in a table of numbers that stand for them, honest
    episodes meet and part again, and in long ones runs of steps are the same as well.
    """
    order = np.argsort(hashes, kind="stable")
    one, other = order[:-1], order[1:]
    episode = episode_of(np.arange(len(hashes)), offsets)
    is_last = np.isin(np.arange(len(hashes)), offsets[1:] - 1)
    is_pair = (hashes[one] == hashes[other]) & (episode[one] != episode[other]) & ~is_last[one] & ~is_last[other]
    one, other = one[is_pair], other[is_pair]
    return len(one) >= _FEWEST_PAIRS and bool((hashes[one + 1] == hashes[other + 1]).mean() < 0.5)


def _has_many_values(dataset: TrajectoryDataset) -> bool:
    """Return True for pictures, and if a number of the observations has many values that are not whole."""
    sample = np.asarray(dataset.observations[:_SAMPLE])
    if sample.dtype.kind != "f":
        return True
    fractions = sample[:, (sample != np.floor(sample)).any(axis=0)]
    return any(len(np.unique(column)) >= min(_FEWEST_VALUES, len(sample) // 2) for column in fractions.T)


def _row_hashes(rows: np.ndarray) -> np.ndarray:
    """Return a hash of the bytes of every row (N,)."""
    # Bytes, not values: equal steps are copies to the last bit, and bytes need no care for NaN or types.
    packed = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    padding = -packed.shape[1] % 8
    words = np.pad(packed, ((0, 0), (0, padding))).view(np.uint64)
    multipliers = np.random.default_rng(7).integers(1, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    with np.errstate(over="ignore"):
        mixed = (words ^ (words >> np.uint64(29))) * multipliers
        total = (mixed ^ (mixed >> np.uint64(32))).sum(axis=1)
        return (total ^ (total >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
