"""Find observations that know how their episode will go on: its return, its length, or whether the task will end it.

Shapes: N steps, E episodes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from rl_transformer.trajectories.explained_variance import categories, scaled_columns, share_explained
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.returns import returns_of_episodes
from rl_transformer.trajectories.sampled_steps import SampledSteps

OUTCOME = "outcome among the observations"
END = "end among the observations"

_FEWEST_EPISODES = 20
_COPY = 0.95
_FOLLOWS = 0.97
_SAME_ORDER = 0.985
# Share of a feature's variance that lies within episodes, up to which it stands for its episode.
_WITHIN = 0.1
# Outcomes with fewer values are classes; each needs this many episodes.
_MANY_VALUES = 12
_FEWEST_OF_CLASS = 5
_SCHEDULED = 1e-4
_FIX = "leave the feature out: it is not known while the episode lasts; if it is a setting that determines the outcome, keep it"


def leaked_outcomes(
    steps: SampledSteps, names: list[str], without_step_means: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterator[Finding]:
    """Yield warnings about features that know the return, the length or the end of their episode.

    Args:
        steps: The steps.
        names: Name of every feature.
        without_step_means: Removes from columns (N, P) what their step in the episode says (N,).
    """
    if len(steps.episodes) < _FEWEST_EPISODES:
        return
    returns = np.add.reduceat(steps.rewards, steps.offsets[:-1])
    outcomes = {
        "the return of its episode": returns,
        "the length of its episode": steps.lengths.astype(np.float64),
        "whether the task ends its episode": steps.terminated.astype(np.float64),
    }
    # The first that fits: a return that counts steps is a length as well.
    found: dict[int, str] = {}
    for what, values in outcomes.items():
        for feature in _knowing(steps, values):
            found.setdefault(int(feature), what)
    for feature in _following(steps, without_step_means):
        found.setdefault(int(feature), "the return-to-go")
    for what in dict.fromkeys(found.values()):
        features = [feature for feature, known in found.items() if known == what]
        listed = ", ".join(repr(names[feature]) for feature in features[:5])
        positions = [{"feature": feature} for feature in features[:MAX_POSITIONS]]
        yield Finding(
            "warning", OUTCOME, f"observations: {what}", f"({listed}) reveals {what}", _FIX, len(features), positions
        )


def leaked_ends(steps: SampledSteps, names: list[str]) -> Iterator[Finding]:
    """Yield a warning about features that are the flag of the last step."""
    last = np.zeros(steps.num_steps)
    last[steps.offsets[1:][steps.terminated] - 1] = 1
    if last.sum() < _FEWEST_EPISODES or len(np.unique(steps.lengths)) < 3:
        return  # at a fixed length, a clock knows the last step, too
    features = scaled_columns(steps.observations)
    shares = share_explained(features, last[:, None], steps.episode)
    found = np.flatnonzero((shares >= _COPY) & (features.var(axis=0) > 0))
    if found.size:
        listed = ", ".join(repr(names[i]) for i in found[:5])
        fix = "leave the feature out: whether a step ends the episode is only known after it"
        positions = [{"feature": int(i)} for i in found[:MAX_POSITIONS]]
        problem = f"({listed}) is the flag of the last step of an episode"
        yield Finding("warning", END, "observations", problem, fix, found.size, positions)


def _knowing(steps: SampledSteps, values: np.ndarray) -> np.ndarray:
    """Return the features that stand for their episode and agree with values of episodes (E,)."""
    distinct, counts = np.unique(values, return_counts=True)
    features = scaled_columns(steps.observations)
    # A value that stays the same in an episode, up to noise, was written from a place that knows the episode.
    means = np.stack([np.bincount(steps.episode, column) for column in features.T], axis=1) / steps.lengths[:, None]
    within = np.square(features - means[steps.episode]).mean(axis=0)
    stands = (within <= _WITHIN) & (means.var(axis=0) > 0)
    if counts.sum() - counts.max() < _FEWEST_OF_CLASS:
        return np.zeros(0, np.int64)  # hardly any episode differs from the others
    if len(distinct) <= _MANY_VALUES and counts.min() >= _FEWEST_OF_CLASS:
        # A setting with many values is no copy of an outcome with few.
        explained = share_explained(means, categories(values), np.arange(len(values)))
        return np.flatnonzero(stands & (explained >= _COPY - _WITHIN))
    # Ranks follow a scaled or bent outcome, too.
    ranks = stats.rankdata(values)
    agrees = np.zeros(len(stands), bool)
    for feature in np.flatnonzero(stands):
        order = np.corrcoef(stats.rankdata(means[:, feature]), ranks)[0, 1]
        agrees[feature] = abs(order) >= _SAME_ORDER
    return np.flatnonzero(agrees)


def _following(steps: SampledSteps, without_step_means: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the features that change with the return-to-go, with or without the reward of this step."""
    to_go = returns_of_episodes(steps.rewards, steps.offsets)
    features = without_step_means(scaled_columns(steps.observations), steps.step)
    is_free = features.var(axis=0) > _SCHEDULED
    follows = np.zeros(len(is_free), bool)
    for values in (to_go, to_go - steps.rewards):
        # Only what grows or shrinks with it: along one path, every signal is some function of what remains of it.
        ranks = stats.rankdata(values)
        for functions in (scaled_columns(values[:, None]), scaled_columns(ranks[:, None])):
            left = without_step_means(functions, steps.step)
            if left.var() > _SCHEDULED:
                follows |= share_explained(features, left, steps.episode) >= _FOLLOWS
    return np.flatnonzero(follows & is_free)
