"""Paired differences between scores, value by value, and what their intervals say."""

from __future__ import annotations

import numpy as np

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import Score


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


def reaches_zero(difference: Score) -> bool | None:
    """Return True if the interval reaches 0 or lies above it; None without an interval."""
    interval = difference["interval"]
    return None if interval is None else interval[1] >= 0


def contains_zero(difference: Score) -> bool | None:
    """Return True if the interval contains 0; None without an interval."""
    interval = difference["interval"]
    return None if interval is None else interval[0] <= 0 <= interval[1]


def format_difference(difference: Score) -> str:
    """Return a difference with its interval as text."""
    numbers = [difference["mean"], *(difference["interval"] or [])]
    mean, *interval = (f"{number:+.0f}" if abs(number) >= 100 else f"{number:+.3g}" for number in numbers)
    return f"difference {mean} [{', '.join(interval)}]" if interval else f"difference {mean}, one seed"
