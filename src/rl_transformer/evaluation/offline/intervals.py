"""Intervals of estimates over episodes or entities, and how far weights can be trusted.

Shapes: E episodes, G entities, M weights.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import stats

from rl_transformer.runtime.shapes import Float64, Int

_FEWEST_TAIL = 5
_LARGEST_TAIL_SHARE = 0.2


def half_width(
    influences: Float64[np.ndarray, "E"],
    entities: Int[np.ndarray, "E"] | None,
    confidence: float,
    folds: Int[np.ndarray, "E"] | None = None,
) -> float:
    """Return half the width of the interval of an estimate; infinite for a single unit.

    Args:
        influences: How far each episode moves the estimate, times E.
        entities: Number of the entity of each episode; episodes of one entity are correlated. None: one entity per episode.
        confidence: Probability with which the interval should hold the value, such as 0.9.
        folds: Number of the fold of each episode, if networks were fitted per fold: where the folds' estimates differ by more
            than chance explains, the interval is that much wider. None: nothing was fitted.
    """
    error, units = standard_error(influences, entities)
    if units < 2:
        return float("inf")
    return float(stats.t.ppf((1 + confidence) / 2, units - 1)) * error * disagreement(influences, entities, folds)


def disagreement(
    influences: Float64[np.ndarray, "E"], entities: Int[np.ndarray, "E"] | None, folds: Int[np.ndarray, "E"] | None
) -> float:
    """Return by what factor the folds' estimates differ more than chance explains, at least 1 (Birge 1932).

    Each fold is judged by networks that were fitted without it. The spread over episodes does not include their errors, but
    these are independent between folds, so they show up as folds that disagree.
    """
    if folds is None:
        return 1.0
    numbers, place, counts = np.unique(folds, return_inverse=True, return_counts=True)
    means = np.bincount(place, influences) / counts
    # One spread for all folds: in a log with few rewards a fold may have none, and its own spread would be 0.
    error, _ = standard_error(influences - means[place], entities)
    if len(numbers) < 2 or error == 0:
        return 1.0
    # The error of the mean of all episodes; that of a fold's mean is larger, as it has fewer of them.
    errors = error * np.sqrt(len(folds) / counts)
    center = float(np.average(means, weights=counts))
    return max(1.0, float(np.sqrt((((means - center) / errors) ** 2).sum() / (len(numbers) - 1))))


def standard_error(influences: Float64[np.ndarray, "E"], entities: Int[np.ndarray, "E"] | None) -> tuple[float, int]:
    """Return the standard error over the units of resampling, and their number."""
    # Episodes of one entity vary together, so their influences are added before the spread is taken (cluster-robust).
    sums = influences if entities is None else np.bincount(np.unique(entities, return_inverse=True)[1], influences)
    units = len(sums)
    if units < 2:
        return float("inf"), units
    return float(np.sqrt(units / (units - 1) * (sums**2).sum()) / len(influences)), units


def effective_sample_size(weights: Float64[np.ndarray, "M"]) -> float:
    """Return the number of equally weighted samples that would be worth as much (Kish); 0 if all weights are 0."""
    # Divided first, because squares of very large weights would overflow.
    largest = float(weights.max(initial=0.0))
    if largest == 0:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def pareto_k(weights: Float64[np.ndarray, "M"]) -> float | None:
    """Return the shape of the tail of some weights: above 0.7 their mean cannot be trusted (Vehtari et al. 2024).

    It is that of a generalized Pareto distribution fitted to the largest weights, min(20 %, 3 sqrt(M)) of them. None if
    they are too few, or all equal, so that there is no tail.
    """
    count = int(min(_LARGEST_TAIL_SHARE * len(weights), 3 * np.sqrt(len(weights))))
    if count < _FEWEST_TAIL:
        return None
    ordered = np.sort(weights)
    threshold = ordered[-count - 1]
    excesses = ordered[-count:] - threshold
    excesses = excesses[excesses > 0]
    if len(excesses) < _FEWEST_TAIL:
        return None
    # In units of their mean: the fit starts from a scale of that order.
    shape = cast(tuple[float, float, float], stats.genpareto.fit(excesses / excesses.mean(), floc=0))[0]
    # A weak prior at 0.5 keeps short tails from jumping, as in PSIS.
    return float((len(excesses) * shape + 10 * 0.5) / (len(excesses) + 10))
