"""Compute scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import stats

from rl_transformer.runtime.types import JsonObject

_CONFIDENCE = 0.95
STUDENT_T = "student_t"
CLOPPER_PEARSON = "clopper_pearson"


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of a mean."""

    low: float
    high: float
    method: str
    """`STUDENT_T`, or `CLOPPER_PEARSON` for the rate of successes."""


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean, one value per episode or training seed; None if there is none.

    There is none for fewer than two values, and for values that are all equal: they show no spread, so nothing can be
    said about how far the mean of further values would be from them.
    """
    # Not the bootstrap: with few values, resampling yields intervals that are far too narrow. Percentiles of resamples
    # of three values reach from the smallest to the largest one, and hold the mean in 78 % of cases instead of 95 %.
    array = np.asarray(values, np.float64)
    if len(array) < 2 or np.ptp(array) == 0:
        return None
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(array) - 1) * stats.sem(array))
    mean = float(array.mean())
    return Interval(mean - half, mean + half, STUDENT_T)


def return_interval(returns: Sequence[float], return_range: tuple[float, float] | None = None) -> Interval | None:
    """Return the 95 % interval of the mean return of episodes; as `mean_interval`, but exact for rates of success.

    Args:
        returns: One return per episode. Returns that are 0 and 1 are counted as failures and successes.
        return_range: Smallest and largest return of the training episodes. If it lies within [0, 1], returns that are
            all 0, or all 1, are counted in this way, too; otherwise nothing shows what the other outcome would be.
    """
    array = np.asarray(returns, np.float64)
    is_rate = np.isin(array, (0, 1)).all() and len(array) > 1
    if return_range is None:
        is_rate = is_rate and np.ptp(array) > 0
    else:
        is_rate = is_rate and return_range[0] >= 0 and return_range[1] <= 1
    if not is_rate:
        return mean_interval(returns)
    # The exact interval holds the true rate in at least 95 % of cases, for any rate and any number of episodes.
    exact = stats.binomtest(int(array.sum()), len(array)).proportion_ci(_CONFIDENCE, method="exact")
    return Interval(float(exact.low), float(exact.high), CLOPPER_PEARSON)


def over_seeds(values: Sequence[float], unit: str = "training_seeds") -> JsonObject:
    """Return mean, 95 % interval and the values themselves, one per seed; JSON-ready.

    Args:
        values: One score per seed.
        unit: Unit that varies, recorded as ``interval_over``.
    """
    array = np.asarray(values, np.float64)
    # Student's t instead of the bootstrap: with three to ten seeds, resampling yields intervals that are too narrow.
    half = stats.t.ppf(0.975, len(array) - 1) * stats.sem(array) if len(array) > 1 else None
    mean = float(array.mean())
    interval = None if half is None else [mean - float(half), mean + float(half)]
    return {"mean": mean, "interval": interval, "interval_over": unit, "values": array.tolist()}


def over_units(values: Sequence[float], unit: str) -> JsonObject:
    """Return mean and 95 % interval of independent values, and what varies between them; JSON-ready."""
    interval = mean_interval(values)
    return {
        "mean": float(np.mean(values)),
        "interval": None if interval is None else [interval.low, interval.high],
        "interval_over": unit,
    }


def ratio_over_seeds(numerators: Sequence[float], denominators: Sequence[float]) -> JsonObject:
    """Return the ratio of two means over the same seeds, with Fieller's 95 % interval; JSON-ready.

    The interval holds every ratio r for which the mean of numerator - r * denominator does not differ from 0 (paired
    Student's t). It is None for one seed, and where the mean of the denominators itself is not clearly different from 0.

    Args:
        numerators: One score per seed.
        denominators: The scores to divide by, of the same seeds.
    """
    above = np.asarray(numerators, np.float64)
    below = np.asarray(denominators, np.float64)
    ratio = float(above.mean() / below.mean())
    if len(above) < 2:
        return {"ratio": ratio, "interval": None}
    factor = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(above) - 1)) ** 2 / len(above)
    covariance = np.cov(above, below)
    # (mean above - r mean below)^2 = factor * variance of (above - r below) is a quadratic equation in r.
    square = below.mean() ** 2 - factor * covariance[1, 1]
    linear = above.mean() * below.mean() - factor * covariance[0, 1]
    constant = above.mean() ** 2 - factor * covariance[0, 0]
    if square <= 0:
        return {"ratio": ratio, "interval": None}
    half = float(np.sqrt(max(0.0, linear**2 - square * constant)) / square)
    middle = float(linear / square)
    return {"ratio": ratio, "interval": [middle - half, middle + half]}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons after Holm's correction, in the same order."""
    order = np.argsort(p_values)
    corrected = [1.0] * len(order)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(order) - rank) * p_values[index])
        corrected[index] = min(1.0, float(largest))
    return corrected


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for fewer than two values."""
    return float(stats.sem(values)) if len(values) > 1 else None


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half of the values, which outliers do not move (IQM; Agarwal et al. 2021)."""
    return float(stats.trim_mean(values, 0.25))


def success_rate(successes: int, episodes: int) -> dict[str, float | int | list[float]]:
    """Return a success rate with its 95 % interval, JSON-ready."""
    # Wilson's interval stays inside [0, 1] and has a width even at 0 or all successes.
    interval = stats.binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return {
        "rate": successes / episodes,
        "interval": [float(interval.low), float(interval.high)],
        "successes": successes,
        "episodes": episodes,
    }


def rank_correlation(targets: Sequence[float], achieved: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of target and achieved returns; None where it is undefined."""
    # Two points always have a correlation of 1 or -1, and constant returns have no ranks.
    if len(targets) < 3 or np.ptp(achieved) == 0:
        return None
    return float(cast(float, stats.spearmanr(targets, achieved)[0]))


def interquartile_mean_over_games(
    scores: Mapping[str, Sequence[float]], *, resamples: int = 10_000, seed: int = 0
) -> JsonObject:
    """Return the interquartile mean of all runs of all games, with its 95 % interval; JSON-ready.

    The interval is the stratified bootstrap of Agarwal et al. 2021 (section 4): the runs of each game are resampled,
    the games are not, so it says nothing about other games. With few runs per game it is too narrow.

    Args:
        scores: Normalized scores by game, one per training seed. Raw scores of several games cannot be averaged.
        resamples: Resamples.
        seed: Seed of the resampling.
    """
    random = np.random.default_rng(seed)
    games = [np.asarray(values, np.float64) for values in scores.values()]
    drawn = [values[random.integers(0, len(values), (resamples, len(values)))] for values in games]
    means = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return {
        "mean": interquartile_mean(np.concatenate(games).tolist()),
        "interval": [float(low), float(high)] if all(len(values) > 1 for values in games) else None,
        "interval_over": "training_seeds",
        "games": list(scores),
    }
