"""Measure how well a log covers what the judged policy would do, and where it does not.

Shapes: N steps, E episodes, A joint actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rl_transformer.evaluation.offline.estimators import (
    MARGINALIZED_DOUBLY_ROBUST,
    ValueEstimate,
    estimate_values,
)
from rl_transformer.evaluation.offline.intervals import effective_sample_size, pareto_k, standard_error
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.runtime.shapes import Float, Float64, Int
from rl_transformer.runtime.types import JsonObject

FLOOR = 0.01
"""An action counts as unsupported in a situation where the behavior takes it less often than this."""
_RANGES = 5
_DECILES = 10
_CLIPS = (5.0, 20.0, 100.0)


@dataclass(frozen=True)
class Support:
    """How well the behavior covers a policy."""

    effective_sample_size: float
    """Effective number of episodes of the weighted log."""
    pareto_k: float | None
    """Shape of the tail of the terms that the deciding estimate averages."""
    weights_pareto_k: float | None
    largest_share: float
    """Share of the total weight that the heaviest episode carries."""
    unsupported: float
    """Share of the policy's actions that the behavior takes with a probability below `FLOOR`."""
    by_timestep: list[JsonObject]
    by_return: list[JsonObject]
    mean_weight: tuple[float, float] | None = None
    """Mean of the episodes' weights and its standard error: about 1 if the propensities are right. None: the estimate has no such mean."""

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "effective_sample_size": self.effective_sample_size,
            "pareto_k": self.pareto_k,
            "weights_pareto_k": self.weights_pareto_k,
            "largest_share": self.largest_share,
            "mean_weight": None if self.mean_weight is None else list(self.mean_weight),
            "unsupported": self.unsupported,
            "floor": FLOOR,
            "unit": "share of the policy's action probability at logged steps",
            "by_timestep": self.by_timestep,
            "by_return": self.by_return,
        }


def measure_support(
    steps: LoggedSteps,
    deciding: ValueEstimate,
    missing: Float64[np.ndarray, "N"],
    state_weights: Float64[np.ndarray, "N"] | None = None,
) -> Support:
    """Return how well the behavior covers a policy.

    Args:
        steps: The log.
        deciding: The estimate on which the verdict rests.
        missing: The probability that the policy gives, at every step, to actions of which the log can hardly tell anything.
        state_weights: How much more often the policy visits each step's state; None: every logged step counts alike.
    """
    # Steps of the log stand for the states where the policy would be; where their frequencies are known, they are used.
    weights = np.ones(len(missing)) if state_weights is None else state_weights
    # The weights of the deciding estimate, and no others: products of ratios are hopeless in long episodes, and need not be
    # looked at where they are not used.
    if deciding.name == MARGINALIZED_DOUBLY_ROBUST and steps.marginal_ratios is not None:
        by_episode = steps.sum_by_episode(steps.marginal_ratios) / steps.lengths
        mean = None
    else:
        by_episode = steps.last_ratios
        mean = float(by_episode.mean())
    total = float(by_episode.sum())
    return Support(
        effective_sample_size(by_episode),
        pareto_k(np.abs(deciding.influences)),
        pareto_k(by_episode),
        float(by_episode.max()) / total if total else 1.0,
        _mean(missing, weights),
        [{**place, "unsupported": _mean(missing[rows], weights[rows])} for place, rows in timestep_ranges(steps)],
        [{**place, "unsupported": _mean(missing[rows], weights[rows])} for place, rows in return_deciles(steps)],
        None if mean is None else (mean, standard_error(by_episode - mean, steps.entities)[0]),
    )


def rare_actions(policy: Float[np.ndarray, "N A"], behavior: Float[np.ndarray, "N A"]) -> Float64[np.ndarray, "N"]:
    """Return the probability that a policy gives to actions which the behavior hardly ever takes at a step."""
    return np.where(behavior < FLOOR, policy, 0.0).sum(1)


def clip_sensitivity(steps: LoggedSteps, name: str) -> list[JsonObject]:
    """Return an estimate with every single ratio policy / behavior clipped at some sizes."""
    found = []
    for most in _CLIPS:
        # An estimate that hangs on a few large ratios moves when they are clipped; clipping itself adds bias, so none decides.
        clipped = steps.with_clipped_ratios(most)
        found.append({"largest_ratio": most, "value": estimate_values(clipped)[name].value})
    return found


def timestep_ranges(steps: LoggedSteps) -> list[tuple[JsonObject, Int[np.ndarray, "_"]]]:
    """Return ranges of timesteps with about equally many steps each, and their rows."""
    # Ranges with equally many steps: late timesteps are rare where episodes end early.
    edges = np.unique(np.quantile(steps.timesteps, np.linspace(0, 1, _RANGES + 1)).astype(int))
    borders = [*edges[:-1].tolist(), int(edges[-1]) + 1] if len(edges) > 1 else [0, int(edges[0]) + 1]
    found = []
    for first, end in pairwise(borders):
        rows = np.flatnonzero((steps.timesteps >= first) & (steps.timesteps < end))
        found.append(({"first": first, "last": end - 1}, rows))
    return found


def return_deciles(steps: LoggedSteps) -> list[tuple[JsonObject, Int[np.ndarray, "_"]]]:
    """Return ranges of returns with about a tenth of the episodes each, and their rows; equal returns stay together."""
    returns = np.repeat(steps.returns, steps.lengths)
    edges = np.unique(np.quantile(steps.returns, np.linspace(0, 1, _DECILES + 1)))
    # Many logs have few different returns, such as 0 and 1, and then fewer ranges than ten.
    places = np.searchsorted(edges[1:-1], returns, side="right") if len(edges) > 2 else np.zeros(len(returns), int)
    found = []
    for place in np.unique(places):
        rows = np.flatnonzero(places == place)
        found.append(({"low": float(returns[rows].min()), "high": float(returns[rows].max())}, rows))
    return found


def _mean(values: Float64[np.ndarray, "_"], weights: Float64[np.ndarray, "_"]) -> float:
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total else 1.0
