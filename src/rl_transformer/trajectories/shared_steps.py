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


def step_hashes(dataset: TrajectoryDataset, *, always: bool = False) -> np.ndarray | None:
    """Return a hash of each step's observation, action and reward (N,).

    None where equal steps of different episodes would say nothing, or take long to find, unless ``always`` is set.
    """
    is_telling = 0 < dataset.num_steps <= _MOST_STEPS and _has_many_values(dataset)
    if not is_telling and not always:
        return None
    hashed = _row_hashes(np.asarray(dataset.observations))
    with np.errstate(over="ignore"):
        for column in (dataset.actions, dataset.rewards):
            hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + _row_hashes(np.asarray(column))
    return hashed


def episode_hashes(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a hash of the steps of each episode (E,)."""
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


def overlapping_episodes(dataset: TrajectoryDataset) -> Iterator[Finding]:
    """Yield a warning if episodes begin inside of other ones."""
    hashes = step_hashes(dataset)
    if hashes is None:
        return
    offsets = np.asarray(dataset.offsets)
    runs, rows = run_hashes(hashes, offsets)
    episode = np.searchsorted(offsets, rows, side="right") - 1
    # Paths of one policy may meet and go on together, from the middle of both; only windows begin inside of another one.
    is_first = rows == offsets[episode]
    order = np.argsort(runs[~is_first], kind="stable")
    inner_runs, inner_rows = runs[~is_first][order], rows[~is_first][order]
    at = np.searchsorted(inner_runs, runs[is_first])
    found = at < len(inner_runs)
    found[found] = inner_runs[at[found]] == runs[is_first][found]
    which = episode[is_first][found]
    if which.size:
        others = inner_rows[at[found]]
        positions = [
            {"episode": int(e), "step": 0, "other episode": int(other), "other step": int(row - offsets[other])}
            for e, row, other in zip(which, others, np.searchsorted(offsets, others, side="right") - 1, strict=True)
        ][:MAX_POSITIONS]
        problem = "begins with steps that also lie inside of another one, as windows that overlap do"
        fix = "cut episodes that do not overlap; never split such data into a part to learn from and one to judge by"
        yield Finding("warning", OVERLAP, "episode", problem, fix, which.size, positions)


def _has_many_values(dataset: TrajectoryDataset) -> bool:
    """Return True for pictures, and if a number of the observations has many values that are not whole."""
    sample = np.asarray(dataset.observations[:_SAMPLE])
    if sample.dtype.kind != "f":
        return True
    fractions = sample[:, (sample != np.floor(sample)).any(axis=0)]
    return any(len(np.unique(column)) >= min(_FEWEST_VALUES, len(sample) // 2) for column in fractions.T)


def _row_hashes(rows: np.ndarray) -> np.ndarray:
    """Return a hash of the bytes of every row (N,)."""
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
