"""Differences between scores, and what their intervals say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from scipy import stats

from rl_transformer.evaluation.statistics import holm, over_seeds
from rl_transformer.runtime.types import JsonObject

Score: TypeAlias = JsonObject
"""Mean, interval and values of one measure, from `over_seeds`."""

MARGIN_SHARE = 0.05
"""Share of the best return by which a score may lie below another one and still count as not worse."""


MOST_VALUES = 1_000
"""Values per side beyond which a difference counts as out of sight."""
_SAME = 1e-12  # relative; differences of equal differences differ by rounding


class Check(NamedTuple):
    """A rule held against the measurements."""

    holds: bool | None
    """None: the measurements do not decide it."""
    result: str
    """The numbers that decide it."""


def all_hold(outcomes: Collection[bool | None]) -> bool | None:
    """Return False if one of several rules fails, None if one is undecided and none fails, and else True."""
    return False if False in outcomes else None if None in outcomes else True


def paired_difference(score: Score, baseline: Score, unit: str = "training_seeds") -> Score:
    """Return ``score`` minus ``baseline``, both over the same seeds."""
    return over_seeds(np.subtract(score["values"], baseline["values"]).tolist(), unit)


def unpaired_difference(score: Score, baseline: Score, unit: str = "training_seeds") -> Score:
    """Return ``score`` minus ``baseline``, over independent values, with Welch's 95 % interval; without ``values``.

    The interval is None where Welch's test is undefined: for one value, and where the values of both sides are equal.
    """
    difference = float(np.mean(score["values"]) - np.mean(baseline["values"]))
    interval = None
    if is_defined(score["values"], baseline["values"], paired=False):
        found = stats.ttest_ind(score["values"], baseline["values"], equal_var=False).confidence_interval(0.95)
        interval = [float(found.low), float(found.high)]
    return {"mean": difference, "interval": interval, "interval_over": unit}


def is_defined(values: Sequence[float], baseline: Sequence[float], *, paired: bool) -> bool:
    """Return False where no test is defined: too few values, or no spread from which to judge the difference."""
    if min(len(values), len(baseline)) < 2:
        return False
    sides = [np.subtract(values, baseline)] if paired else [np.asarray(values), np.asarray(baseline)]
    size = max(np.abs(values).max(), np.abs(baseline).max())
    return any(np.ptp(side) > _SAME * size for side in sides)


def p_value(values: Sequence[float], baseline: Sequence[float], *, paired: bool, shift: float = 0.0) -> float | None:
    """Return the two-sided p-value of Student's paired t test, or of Welch's test; None where it is undefined.

    Args:
        values: One value per seed.
        baseline: The values to compare with; of the same seeds if ``paired``.
        paired: Compare seed by seed.
        shift: Test whether the difference is minus this number, instead of 0.
    """
    if not is_defined(values, baseline, paired=paired):
        return None
    moved = np.add(values, shift)
    test = stats.ttest_rel(moved, baseline) if paired else stats.ttest_ind(moved, baseline, equal_var=False)
    return float(cast(float, test[1]))


def values_needed(
    values: Sequence[float], baseline: Sequence[float], *, paired: bool, level: float = 0.05
) -> int | None:
    """Return the values per side at which the interval would exclude 0, if difference and variances stay as observed.

    Args:
        values: One value per seed.
        baseline: The values to compare with.
        paired: Compare seed by seed.
        level: One minus the confidence of the interval.

    Returns:
        None above `MOST_VALUES`, and where no test is defined.
    """
    if not is_defined(values, baseline, paired=paired):
        return None
    counts = np.arange(2, MOST_VALUES + 1)
    if paired:
        variance = float(np.var(np.subtract(values, baseline), ddof=1))
        freedom = counts - 1.0
    else:
        one, other = (float(np.var(side, ddof=1)) for side in (values, baseline))
        variance = one + other
        # Welch's degrees of freedom for as many values on both sides.
        freedom = (counts - 1) * variance**2 / (one**2 + other**2)
    halves = stats.t.ppf(1 - level / 2, freedom) * np.sqrt(variance / counts)
    enough = counts[halves < abs(np.mean(values) - np.mean(baseline))]
    return int(enough[0]) if len(enough) else None


def is_above_zero(difference: Score) -> bool | None:
    """Return True if the whole interval is above 0, False if it is below; None if it holds 0, or there is none (one seed).

    An interval that holds 0 is no evidence of an absent difference.
    """
    interval = difference["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return None
    return interval[0] > 0


def is_below_zero(difference: Score) -> bool | None:
    """Return True if the whole interval is below 0, False if it is above; None as in `is_above_zero`."""
    above = is_above_zero(difference)
    return None if above is None else not above


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
    arrays = [np.asarray(difference["values"]) for difference in differences.values()]
    if any(len(array) < 2 or np.ptp(array) == 0 for array in arrays):
        return dict.fromkeys(differences)
    p_values = [float(cast(float, stats.ttest_1samp(array, 0)[1])) for array in arrays]
    return dict(zip(differences, holm(p_values), strict=True))


def format_difference(difference: Score) -> str:
    """Return a difference with its interval as text."""
    numbers = [difference["mean"], *(difference["interval"] or [])]
    mean, *interval = (format_number(number, "+") for number in numbers)
    return f"difference {mean} [{', '.join(interval)}]" if interval else f"difference {mean}, one seed"


def format_number(number: float, sign: str = "") -> str:
    """Return a score as text: whole numbers from 100 on, else three digits; ``sign`` is that of format()."""
    return f"{number:{sign}.0f}" if abs(number) >= 100 else f"{number:{sign}.3g}"
