"""Paired differences between scores, value by value, and what their intervals say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from scipy import stats

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import Check, Score

MARGIN_SHARE = 0.05
"""Share of the best return by which a score may lie below another one and still count as not worse."""


def paired_difference(score: Score, baseline: Score, unit: str = "training_seeds") -> Score:
    """Return ``score`` minus ``baseline``, both over the same seeds."""
    return over_seeds(np.subtract(score["values"], baseline["values"]).tolist(), unit)


def is_above_zero(difference: Score) -> bool | None:
    """Return True if the whole interval is above 0; None without an interval (one seed)."""
    interval = difference["interval"]
    return None if interval is None else interval[0] > 0


def is_below_zero(difference: Score) -> bool | None:
    """Return True if the whole interval is below 0; None without an interval."""
    interval = difference["interval"]
    return None if interval is None else interval[1] < 0


def not_worse(difference: Score, margin: float) -> Check:
    """Return whether a score is not worse than its baseline by more than ``margin`` (non-inferiority).

    An interval that reaches down across the margin decides nothing: few seeds must not be a way to pass.

    Args:
        difference: From `paired_difference`.
        margin: Largest loss that does not matter, in the unit of the score; above 0.
    """
    interval = difference["interval"]
    if interval is None:
        return Check(None, format_difference(difference))
    low, high = interval
    holds = True if low > -margin else False if high < -margin else None
    outcome = {
        True: "better" if low > 0 else "not worse within the margin",
        False: "worse by more than the margin",
        None: "not established",
    }[holds]
    return Check(holds, f"{format_difference(difference)}, margin {margin:.3g}: {outcome}")


def equivalent(difference: Score, margin: float) -> Check:
    """Return whether two scores differ by less than ``margin``; an interval across a margin decides nothing."""
    interval = difference["interval"]
    if interval is None:
        return Check(None, format_difference(difference))
    low, high = interval
    is_inside = low > -margin and high < margin
    is_outside = high < -margin or low > margin
    holds = True if is_inside else False if is_outside else None
    outcome = {True: "no relevant difference", False: "a relevant difference", None: "not established"}[holds]
    return Check(holds, f"{format_difference(difference)}, margin {margin:.3g}: {outcome}")


def holm_corrected(differences: Mapping[str, Score]) -> dict[str, float | None]:
    """Return the p-value of each paired difference after Holm's correction for all of them.

    Two-sided, by Student's t over the values; None for all of them if one has no spread, such as a single seed.
    """
    values = {name: np.asarray(difference["values"]) for name, difference in differences.items()}
    if any(len(array) < 2 or np.ptp(array) == 0 for array in values.values()):
        return dict.fromkeys(differences)
    p_values = {name: float(cast(float, stats.ttest_1samp(array, 0)[1])) for name, array in values.items()}
    corrected: dict[str, float | None] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def format_difference(difference: Score) -> str:
    """Return a difference with its interval as text."""
    numbers = [difference["mean"], *(difference["interval"] or [])]
    mean, *interval = (f"{number:+.0f}" if abs(number) >= 100 else f"{number:+.3g}" for number in numbers)
    return f"difference {mean} [{', '.join(interval)}]" if interval else f"difference {mean}, one seed"
