"""Estimates of a policy's value from the log of another one, each with the influence of every episode.

All have one form: the critic's value of the first states, plus weighted corrections by what happened afterwards. Without a
critic the corrections are the rewards. The weights are what distinguishes them:

- products of policy / behavior (Precup et al. 2000; with a critic: Jiang & Li 2016, Thomas & Brunskill 2016);
- the same divided by their sum at each timestep (self-normalized, "weighted");
- ratios of how often policy and behavior are in a state and act so (marginalized; Xie et al. 2019, Kallus & Uehara 2020).

Shapes: N steps, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.runtime.shapes import Float64, Int

BEHAVIOR = "behavior"
IMPORTANCE = "per_decision_importance_sampling"
WEIGHTED = "weighted_importance_sampling"
DOUBLY_ROBUST = "doubly_robust"
WEIGHTED_DOUBLY_ROBUST = "weighted_doubly_robust"
FITTED_Q = "fitted_q_evaluation"
MARGINALIZED = "marginalized_importance_sampling"
MARGINALIZED_DOUBLY_ROBUST = "marginalized_doubly_robust"

_MARKOV = "states are fully observed and Markov"
ASSUMPTIONS = {
    BEHAVIOR: "none beyond independent units: it is the mean of the logged returns",
    IMPORTANCE: "propensities are right, and the behavior sometimes takes every action that the policy takes",
    WEIGHTED: "as for importance sampling, and many episodes: its bias vanishes as their number grows",
    DOUBLY_ROBUST: "propensities or critic are right, and the behavior sometimes takes every action that the policy takes",
    WEIGHTED_DOUBLY_ROBUST: "propensities or critic are right, support, and many episodes",
    FITTED_Q: "the critic is right; its interval is over starting states only and treats the fit as exact",
    MARGINALIZED: f"{_MARKOV}, support, and many episodes",
    MARGINALIZED_DOUBLY_ROBUST: f"{_MARKOV}; critic or ratios are right, and support",
}


@dataclass(frozen=True)
class ValueEstimate:
    """An estimated value; the mean of ``influences`` is 0, and their spread over episodes is its uncertainty."""

    name: str
    value: float
    influences: Float64[np.ndarray, "E"]
    """How far each episode moves the estimate, times E."""
    folds: Int[np.ndarray, "E"] | None = None
    """Number of the fold of each episode, whose networks were fitted without it; None: the interval leaves out their errors."""


def estimate_values(steps: LoggedSteps) -> dict[str, ValueEstimate]:
    """Return every estimate that the steps allow, by name."""
    bare = steps.without_critic()
    # All of them are computed, although one decides: where they disagree a reader should see it.
    estimates = [_plain(IMPORTANCE, bare, bare.cumulative_ratios), _self_normalized(WEIGHTED, bare)]
    if steps.state_values is not None:
        estimates += [
            _plain(DOUBLY_ROBUST, steps, steps.cumulative_ratios),
            _self_normalized(WEIGHTED_DOUBLY_ROBUST, steps),
            # Its interval is over starting states alone: where all episodes start alike nothing is left to compare folds with.
            replace(_plain(FITTED_Q, steps, np.zeros(len(steps.rewards))), folds=None),
        ]
    if steps.marginal_ratios is not None:
        estimates.append(_plain(MARGINALIZED, bare, steps.marginal_ratios))
        if steps.state_values is not None:
            estimates.append(_plain(MARGINALIZED_DOUBLY_ROBUST, steps, steps.marginal_ratios))
    return {estimate.name: estimate for estimate in estimates}


def logged_value(steps: LoggedSteps) -> ValueEstimate:
    """Return the value of the behavior itself: the mean of the logged returns."""
    return _estimate(BEHAVIOR, steps.returns, None)


def _plain(name: str, steps: LoggedSteps, weights: Float64[np.ndarray, "N"]) -> ValueEstimate:
    """Return an estimate that is a mean over episodes."""
    return _estimate(name, steps.start_values + steps.sum_by_episode(weights * steps.corrections), steps.folds)


def _estimate(name: str, by_episode: Float64[np.ndarray, "E"], folds: Int[np.ndarray, "E"] | None) -> ValueEstimate:
    value = float(by_episode.mean())
    return ValueEstimate(name, value, by_episode - value, folds)


def _self_normalized(name: str, steps: LoggedSteps) -> ValueEstimate:
    """Return an estimate whose weights sum to 1 over the episodes at every timestep.

    An episode that has ended keeps its last weight and earns nothing: leaving it out would make the others too heavy.
    """
    ratios = steps.cumulative_ratios
    size = int(steps.lengths.max())
    last = steps.last_ratios
    # Sums over episodes at each timestep: of those that go on, and of those that ended before.
    going_on = np.bincount(steps.timesteps, ratios, size)
    ended = np.append(0.0, np.cumsum(np.bincount(steps.lengths - 1, last, size))[:-1])
    weights = going_on + ended
    # Where every weight is 0 nothing is known of what the policy would have earned; the gates of support say so.
    safe = np.where(weights > 0, weights, 1.0)
    means = np.bincount(steps.timesteps, ratios * steps.corrections, size) / safe
    start = steps.start_values
    value = float(start.mean() + means.sum())
    # The derivative by an episode's share: its own terms, less its weight in each denominator (delta method).
    scale = steps.num_episodes / safe
    own = steps.sum_by_episode(ratios * (steps.corrections - means[steps.timesteps]) * scale[steps.timesteps])
    after_end = np.append(np.cumsum((means * scale)[::-1])[::-1][1:], 0.0)
    influences = start - start.mean() + own - last * after_end[steps.lengths - 1]
    return ValueEstimate(name, value, influences, steps.folds)
