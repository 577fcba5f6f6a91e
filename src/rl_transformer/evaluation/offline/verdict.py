"""Better, worse or not established: the rule, and what would settle it.

The rule was written before its results on problems of known answer (`rlt reproduce judge`) were seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_transformer.evaluation.offline.estimators import (
    ASSUMPTIONS,
    BEHAVIOR,
    FITTED_Q,
    MARGINALIZED_DOUBLY_ROBUST,
    WEIGHTED_DOUBLY_ROBUST,
    ValueEstimate,
)
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.intervals import disagreement, half_width
from rl_transformer.evaluation.offline.support import FLOOR, Support
from rl_transformer.runtime.shapes import Int
from rl_transformer.runtime.types import JsonObject

BETTER = "better"
WORSE = "worse"
NOT_ESTABLISHED = "not established"

REPORTED = 0.90
"""Confidence of the intervals that are reported."""
DECIDING = 0.98
"""Confidence of the interval that must exclude the margin: a wrong verdict in 1 % of cases on either side."""
FEWEST_EPISODES = 100
LARGEST_PARETO_K = 0.7
LARGEST_UNSUPPORTED = 0.10
LARGEST_WEIGHT_ERROR = 0.05
_ERRORS = 3
"""Number of standard errors by which the mean weight may differ from 1."""

RULE = (
    f"better (worse) only if no gate failed; the weighted log is worth {FEWEST_EPISODES} episodes or more; the Pareto k of the "
    f"deciding estimate's terms is at most {LARGEST_PARETO_K}; products of ratios, where it has them, are 1 on average, within "
    f"{_ERRORS} standard errors or {LARGEST_WEIGHT_ERROR}; at most {LARGEST_UNSUPPORTED:.0%} of the policy's actions have a "
    f"behavior probability below {FLOOR}; the {DECIDING:.0%} interval of the difference, wider where the halves of the log disagree, "
    "lies above (below) the margin; and "
    "fitted Q evaluation puts the difference on the same side"
)


@dataclass(frozen=True)
class Side:
    """One policy as it was estimated; the behavior itself has neither critic nor support."""

    estimates: dict[str, ValueEstimate]
    support: Support | None
    """None for the behavior, which is covered by its own log."""

    @property
    def deciding(self) -> ValueEstimate:
        """Return the estimate on which a verdict rests."""
        # In this order: ratios of state frequencies do not grow with the length of episodes as products of ratios do.
        names = (MARGINALIZED_DOUBLY_ROBUST, WEIGHTED_DOUBLY_ROBUST, BEHAVIOR, FITTED_Q)
        return next(self.estimates[name] for name in names if name in self.estimates)

    @property
    def second(self) -> ValueEstimate:
        """Return the estimate that must agree."""
        return self.estimates.get(FITTED_Q, self.deciding)


@dataclass(frozen=True)
class Verdict:
    """The verdict word, and the evidence for it."""

    word: str
    difference: float
    interval: tuple[float, float]
    """At `REPORTED` confidence."""
    deciding_interval: tuple[float, float]
    second_difference: float
    widened_by: float
    """Factor by which the intervals are wider than the spread over episodes alone would make them; 1: the folds agree."""
    margin: float
    is_supported: bool
    """True if every condition on gates and support holds, so that the interval can be believed."""
    rests_on: JsonObject
    reasons: list[str]
    """Why it is not established; empty otherwise."""
    what_would_settle: list[str]
    episodes_needed: int | None

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "verdict": self.word,
            "margin": self.margin,
            # Without support the numbers mean nothing, however narrow their intervals are, and somebody would quote them.
            "difference": {
                "supported": self.is_supported,
                "value": self.difference if self.is_supported else None,
                "interval": list(self.interval) if self.is_supported else None,
                "deciding_interval": list(self.deciding_interval) if self.is_supported else None,
                "by_fitted_q_evaluation": self.second_difference,
                "widened_by": self.widened_by,
            },
            "rests_on": self.rests_on,
            "rule": RULE,
            "reasons": self.reasons,
            "what_would_settle": {"advice": self.what_would_settle, "episodes": self.episodes_needed},
        }


def decide(
    policy: Side,
    other: Side,
    *,
    gates: list[Gate],
    entities: Int[np.ndarray, "E"] | None = None,
    margin: float = 0.0,
    num_episodes: int,
) -> Verdict:
    """Return the verdict about a policy against another side.

    Args:
        policy: The judged policy.
        other: The behavior, or another policy, on the same episodes.
        gates: What was checked of the data.
        entities: Number of the entity of each episode.
        margin: The smallest difference of value that matters.
        num_episodes: E.
    """
    # The difference has its own spread: episodes on which both sides earn alike say much about it, and little about each.
    chosen = policy.deciding
    difference = chosen.value - other.deciding.value
    influences = chosen.influences - other.deciding.influences
    reported = half_width(influences, entities, REPORTED, chosen.folds)
    deciding = half_width(influences, entities, DECIDING, chosen.folds)
    second = policy.second.value - other.second.value
    reasons, advice = failed_conditions((policy, other), gates)
    is_supported = not reasons
    side = 1 if difference > margin else -1 if difference < -margin else 0
    is_beyond = side * difference - deciding > margin
    needed = None
    if not is_beyond:
        reasons.append(
            f"the {DECIDING:.0%} interval of the difference, [{difference - deciding:.4g}, {difference + deciding:.4g}], "
            f"includes differences that do not matter (margin {margin:g})"
        )
        if is_supported and side:
            # The width falls with the square root of the number of episodes.
            needed = math.ceil(num_episodes * (deciding / (side * difference - margin)) ** 2)
            advice.append(f"about {needed:,} episodes in total, if the difference is as estimated")
    # Two estimates that err in different ways: one through its weights, the other through its critic.
    elif side * second <= margin:
        reasons.append("fitted Q evaluation puts the difference on the other side, or within the margin")
        advice.append("more episodes, so that critic and weights can agree; or a live trial")
    return Verdict(
        NOT_ESTABLISHED if reasons else BETTER if side > 0 else WORSE,
        difference,
        (difference - reported, difference + reported),
        (difference - deciding, difference + deciding),
        second,
        disagreement(influences, entities, chosen.folds),
        margin,
        is_supported,
        _describe_basis(policy, "episodes" if entities is None else "entities"),
        reasons,
        list(dict.fromkeys(advice)),
        needed,
    )


def _describe_basis(policy: Side, unit: str) -> dict[str, str]:
    """Return what a verdict rests on."""
    name = policy.deciding.name
    return {"estimator": name, "assumptions": ASSUMPTIONS[name], "second": policy.second.name, "unit": unit}


def failed_conditions(sides: Sequence[Side], gates: Sequence[Gate]) -> tuple[list[str], list[str]]:
    """Return which conditions on gates and support do not hold, and what would help."""
    reasons = [f"{gate.name}: {gate.text}" for gate in gates if gate.passed is False]
    advice = [gate.fix for gate in gates if gate.passed is False and gate.fix]
    # Against another policy both need support, because the difference is no better than the worse of the two.
    for side in sides:
        if side.support is not None:
            found, helps = _thin_support(side.support)
            reasons += found
            advice += helps
    return reasons, advice


def _is_off(mean: float, error: float, size: float) -> bool:
    """Return whether this mean weight is implausible if the propensities are right."""
    # A few heavy episodes that a log may lack make the mean too small, and nothing but wrong propensities makes it too large.
    off = mean - 1 if mean > 1 or size < FEWEST_EPISODES else 1 - mean
    return off > max(_ERRORS * error, LARGEST_WEIGHT_ERROR)


def _thin_support(support: Support) -> tuple[list[str], list[str]]:
    """Return what is wrong with the support of a policy, and what would help."""
    reasons = []
    advice = []
    size = support.effective_sample_size
    if size < FEWEST_EPISODES:
        reasons.append(
            f"weighted by how the policy acts, the log has an effective sample size of {size:.0f} episodes, fewer than {FEWEST_EPISODES}"
        )
        advice.append("episodes in which the behavior acts more like the policy, or a policy closer to the behavior")
    if support.pareto_k is not None and support.pareto_k > LARGEST_PARETO_K:
        reasons.append(
            f"a few episodes dominate the estimate: Pareto k {support.pareto_k:.2f} is above {LARGEST_PARETO_K}"
        )
        advice.append("more episodes of the kind that the policy prefers")
    if support.mean_weight is not None and _is_off(*support.mean_weight, size):
        mean, error = support.mean_weight
        reasons.append(
            f"the propensities are wrong: weights average {mean:.3g} (standard error {error:.2g}), and with correct ones would average 1"
        )
        advice.append(
            "a log that records the probability with which each action was drawn, in a column named by --propensity"
        )
    if support.unsupported > LARGEST_UNSUPPORTED:
        where, when = _where_unsupported(support)
        reasons.append(
            f"{support.unsupported:.1%} of the policy's actions are rare or absent in the log (behavior probability below {FLOOR}){where}"
        )
        advice.append(f"a log in which the behavior also tries those actions{when}")
    return reasons, advice


def _where_unsupported(support: Support) -> tuple[str, str]:
    """Return where the share of unsupported actions is highest, and the timesteps alone; empty where one range holds the whole log."""
    # Where to look: people can add episodes of a kind, and seldom episodes in general.
    places = []
    when = ""
    if len(support.by_timestep) > 1:
        worst = max(support.by_timestep, key=lambda place: place["unsupported"])
        when = " in " + _range("timestep", worst["first"], worst["last"])
        places.append(f"{when} ({worst['unsupported']:.1%})")
    if len(support.by_return) > 1:
        worst = max(support.by_return, key=lambda place: place["unsupported"])
        places.append(f" in episodes with {_range('return', worst['low'], worst['high'])} ({worst['unsupported']:.1%})")
    return ("; the share is highest" + " and".join(places) if places else ""), when


def _range(name: str, low: float, high: float) -> str:
    return f"{name} {low:.4g}" if low == high else f"{name}s from {low:.4g} to {high:.4g}"
