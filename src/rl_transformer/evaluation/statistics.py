"""Compute scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy import stats

from rl_transformer.runtime.types import JsonObject

# Random and expert returns of D4RL (`d4rl/infos.py`): score = 100 (R - random) / (expert - random).
D4RL_REFERENCES = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}
_RESAMPLES = 10_000


def mean_interval(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean (10,000 resamples); None for fewer than two values."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return None
    # scipy warns about constant data, which is common: a policy may solve every episode with the same return.
    if np.ptp(array) == 0:
        return float(array[0]), float(array[0])
    # A seed of its own makes reports reproducible. The percentile method, unlike BCa, is defined for any sample.
    random = np.random.default_rng(seed)
    result = stats.bootstrap(
        (array,), np.mean, confidence_level=confidence, n_resamples=_RESAMPLES, method="percentile", rng=random
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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


def normalized_score(mean: float, reference: str | None) -> float | None:
    """Return D4RL's normalized score 100 (R - random) / (expert - random); None without a reference.

    Args:
        mean: Mean return R, in the environment's units.
        reference: A key of `D4RL_REFERENCES`.
    """
    if reference is None:
        return None
    random, expert = D4RL_REFERENCES[reference]
    return 100 * (mean - random) / (expert - random)
