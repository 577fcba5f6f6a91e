"""Compare data to learn from with data to judge by: what they share, and how they differ.

Shapes: E episodes, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.column_checks import is_time
from rl_transformer.trajectories.columns import STEP_COLUMNS
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.sampled_steps import SampledSteps
from rl_transformer.trajectories.shared_steps import RUN, episode_hashes, run_hashes, step_hashes
from rl_transformer.trajectories.split_drift import behavior_drift, episodes_apart

SHARED_EPISODES = "shared episodes"
SHARED_STEPS = "shared steps"
SHARED_ENTITIES = "shared entities"
OVERLAPPING_TIMES = "overlapping times"
BEHAVIOR_DRIFT = "behavior drift"
OBSERVATION_DRIFT = "observation drift"
RETURN_DRIFT = "return drift"
REWARD_DRIFT = "reward drift"
NOT_COMPARED = "not compared"
SPLIT_KINDS = (
    SHARED_EPISODES,
    SHARED_STEPS,
    SHARED_ENTITIES,
    OVERLAPPING_TIMES,
    BEHAVIOR_DRIFT,
    OBSERVATION_DRIFT,
    RETURN_DRIFT,
    REWARD_DRIFT,
)
"""Kinds of the findings of `compare_splits` beside "not compared"."""

_FEWEST_EPISODES = 20
# A difference by chance alone is reported once in a thousand comparisons, and none that is small.
_CHANCE = 1e-3
_LARGE = 0.65


def compare_splits(
    train: TrajectoryDataset, test: TrajectoryDataset, *, entity: Sequence[str] = (), time: str = ""
) -> list[Finding]:
    """Return what makes a judgment on ``test`` of a policy that learned from ``train`` worthless, or different.

    Errors are what the two share: episodes, steps, entities, times. Warnings are how they differ: behavior, observations,
    rewards, returns. What cannot be compared is an info of the kind "not compared", with the reason; entities that were
    not named, and times that no column holds, are not mentioned. Positions count episodes of ``test``.

    Args:
        train: The data to learn from.
        test: The data to judge by.
        entity: Further columns that tell whom an episode is about; empty: none is known.
        time: A further column with times; empty: one whose name says so.

    Raises:
        RLTransformerError: The spaces differ, or there is no such column.
    """
    for name in ("observation_space", "action_space"):
        ours, theirs = getattr(train.spec, name), getattr(test.spec, name)
        if ours.flat_shape != theirs.flat_shape or ours.kind != theirs.kind:
            problem = f"{name.replace('_', ' ')}s differ: {ours} and {theirs}"
            raise RLTransformerError(problem, where=test.location or "--against", fix="compare parts of the same data")
    if not len(train) or not len(test):
        return [_not_compared("anything", "one of the two holds no episode without errors", "episode")]
    findings = [*_shared_content(train, test), *_shared_entities(train, test, entity)]
    findings += _overlapping_times(train, test, time)
    if min(len(train), len(test)) < _FEWEST_EPISODES:
        few = f"{len(train)} and {len(test)} episodes are too few; {_FEWEST_EPISODES} each are needed"
        return [*findings, _not_compared("behavior, rewards and returns", few, "episode")]
    return [*findings, *_drift(train, test)]


def _shared_content(train: TrajectoryDataset, test: TrajectoryDataset) -> Iterator[Finding]:
    """Yield errors for episodes of the test data whose content is in the training data."""
    known, asked = _whole_hashes(train), _whole_hashes(test)
    # Sorted once, so that a million episodes take seconds.
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], asked), len(known) - 1)
    is_shared = known[order][at] == asked
    found = np.flatnonzero(is_shared)
    hashes = [step_hashes(train), step_hashes(test)]
    fix = "remove them from one of the two; otherwise a policy is judged on what it has memorized"
    # On a grid, two honest episodes may be the same from beginning to end, and so may those of a step or two in any data.
    is_telling = hashes[0] is not None and hashes[1] is not None
    is_telling = is_telling or _more_than_by_chance(known[train.lengths >= RUN], asked[test.lengths >= RUN])
    is_long = test.lengths[found] >= RUN
    for some, level, which in (
        (found[is_long], "error" if is_telling else "warning", "episodes"),
        (found[~is_long], "warning", f"episodes, of fewer than {RUN} steps, which may be the same by chance,"),
    ):
        if some.size:
            positions = [{"episode": int(e), "train episode": int(order[at[e]])} for e in some[:MAX_POSITIONS]]
            problem = f"is in both: {some.size} {which} of {len(test)} of the data to judge by"
            yield Finding(level, SHARED_EPISODES, "episode", problem, fix, some.size, positions)
    if hashes[0] is None or hashes[1] is None:
        reason = "equal steps recur by chance, as on a grid or among a few hundred states, or because there are millions of steps"
        yield _not_compared("runs of equal steps", reason, "step")
        return
    runs, _ = run_hashes(hashes[0], train.offsets)
    test_runs, rows = run_hashes(hashes[1], test.offsets)
    episode = np.searchsorted(test.offsets, rows, side="right") - 1
    # Episodes that are shared as a whole have their finding already.
    again = np.isin(test_runs, runs) & ~is_shared[episode]
    which, first = np.unique(episode[again], return_index=True)
    if which.size:
        positions = [
            {"episode": int(e), "step": int(rows[again][i] - test.offsets[e])}
            for e, i in zip(which[:MAX_POSITIONS], first, strict=False)
        ]
        problem = f"shares runs of {RUN} or more steps with the training data, in {which.size} of {len(test)} episodes"
        yield Finding("error", SHARED_STEPS, "step", problem, fix, which.size, positions)


def _more_than_by_chance(known: np.ndarray, asked: np.ndarray) -> bool:
    """Return whether two sets share more episodes, by their hashes (E,), than two halves of the first one do."""
    # Different episodes are counted: one frequent path of a careful behavior is one coincidence and not hundreds.
    first, second, others = (np.unique(hashes) for hashes in (known[::2], known[1::2], asked))
    if not len(first) or not len(others):
        return False
    # Twice the share between halves, because the whole set has twice as many episodes to be equal to.
    expected = min(1.0, 2 * (np.isin(first, second).sum() + 1) / (len(first) + 1))
    return bool(stats.binom.sf(np.isin(others, known).sum() - 1, len(others), expected) < _CHANCE)


def _whole_hashes(data: TrajectoryDataset) -> np.ndarray:
    """Return a hash of each episode's content, (E,)."""
    hashes = step_hashes(data, always=True)
    assert hashes is not None
    return episode_hashes(hashes, data.offsets)


def _further(data: TrajectoryDataset) -> list[str]:
    return sorted(set(data.columns) - set(STEP_COLUMNS))


def _column(data: TrajectoryDataset, name: str) -> np.ndarray:
    """Return a further column.

    Raises:
        RLTransformerError: There is none of this name.
    """
    if name not in _further(data):
        kept = ", ".join(_further(data)) or "none"
        fix = f"name one of its further columns: {kept}"
        raise RLTransformerError(f"there is no column {name!r}", where=data.location or "data", fix=fix)
    return np.asarray(data.columns[name])


def time_column(train: TrajectoryDataset, test: TrajectoryDataset) -> str:
    """Return the further column that by its name holds times in both data sets; empty if there is none."""
    return next((name for name in _further(train) if is_time(name) and name in test.columns), "")


def _shared_entities(train: TrajectoryDataset, test: TrajectoryDataset, names: Sequence[str]) -> Iterator[Finding]:
    if not names:
        return
    # The first row of an episode tells whom it is about; an entity does not change inside of one.
    keys = [np.stack([_column(d, name)[d.offsets[:-1]] for name in names], axis=1) for d in (train, test)]
    known = {tuple(key) for key in keys[0].tolist()}
    found = [index for index, key in enumerate(keys[1].tolist()) if tuple(key) in known]
    if found:
        positions = [{"episode": index} for index in found[:MAX_POSITIONS]]
        entities = len({tuple(keys[1][index].tolist()) for index in found})
        problem = f"is in both: {entities} entities, with {len(found)} of {len(test)} episodes of the test data"
        fix = "split by entity, so that no entity is in both parts"
        yield Finding("error", SHARED_ENTITIES, ", ".join(names), problem, fix, len(found), positions)


def _overlapping_times(train: TrajectoryDataset, test: TrajectoryDataset, time: str) -> Iterator[Finding]:
    """Yield an error if episodes to judge by begin before the data to learn from ends."""
    name = time or time_column(train, test)
    if not name:
        return
    # Only where episodes begin: one may well last longer than the data to learn from.
    known, asked = _column(train, name), _column(test, name)
    last = known.max()
    found = np.flatnonzero(asked[test.offsets[:-1]] <= last)
    # Data to judge by that is older as a whole is unusual, but shares no time.
    if found.size and asked.max() >= known.min():
        positions = [{"episode": int(e), "step": 0} for e in found[:MAX_POSITIONS]]
        problem = f"begins at or before {last:.12g}, the last time in the training data, in {found.size} of {len(test)} episodes"
        fix = "split by time, so that all test episodes begin after the training data ends; episodes of the same time may share causes"
        yield Finding("error", OVERLAPPING_TIMES, name, problem, fix, found.size, positions)


def _drift(train: TrajectoryDataset, test: TrajectoryDataset) -> Iterator[Finding]:
    """Yield warnings about differences that are neither small nor due to chance, with their sizes."""
    returns = [train.episode_returns, test.episode_returns]
    # Means of episodes and not single steps, which depend on each other and would make every difference significant.
    rewards = [np.add.reduceat(d.rewards, d.offsets[:-1]) / d.lengths for d in (train, test)]
    for kind, field, (ours, theirs), what in (
        (RETURN_DRIFT, "returns", returns, "returns of episodes"),
        (REWARD_DRIFT, "rewards", rewards, "mean rewards per step"),
    ):
        apart, chance = (float(value) for value in np.asarray(stats.ks_2samp(ours, theirs, method="asymp"))[:2])
        if chance < _CHANCE and apart >= 0.2:
            problem = f"differ: {what} have the mean {np.mean(ours):.4g} in the training data and {np.mean(theirs):.4g} in the test data, and the Kolmogorov-Smirnov distance of their distributions is {apart:.2f} (0 to 1)"
            fix = "compare only with references from the same data, and find out what changed between the two"
            yield Finding("warning", kind, field, problem, fix, 1)
    # Two images of one scene differ in every pixel, so that a linear model of pixels says nothing.
    samples = SampledSteps.of(train), SampledSteps.of(test)
    if not samples[0].observations.shape[1]:
        yield _not_compared("behavior", "the observations are images or indices with very many values", "actions")
        return
    if min(len(s.episodes) for s in samples) < _FEWEST_EPISODES:
        yield _not_compared("behavior", "too few episodes have only finite values", "actions")
        return
    for kind, field, scores in (
        (OBSERVATION_DRIFT, "observations", episodes_apart(*samples)),
        (BEHAVIOR_DRIFT, "actions", behavior_drift(*samples)),
    ):
        if scores.chance < _CHANCE and scores.area >= _LARGE:
            what = "the observations" if kind == OBSERVATION_DRIFT else "the actions, given their observations,"
            problem = f"differ: {what} reveal which part an episode belongs to, with an area under the ROC curve of {scores.area:.2f} (0.5: not at all)"
            fix = "weight or select episodes so that the parts agree, or use test episodes of the same time and policy"
            yield Finding("warning", kind, field, problem, fix, 1)


def _not_compared(what: str, reason: str, field: str) -> Finding:
    return Finding(
        "info", NOT_COMPARED, field, f"{what} could not be compared: {reason}", "nothing, if that is known", 1
    )
