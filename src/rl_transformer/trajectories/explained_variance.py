"""Measure how much of some numbers other numbers explain, in episodes that were not used to fit the explanation.

Shapes: N steps, D features, P regressors.
"""

from __future__ import annotations

import numpy as np

# Regressors beyond these numbers would fit noise in a small set of steps.
_MOST_CATEGORIES = 255
_BINS = 24
_MOST_BINNED = 4
# Steps that fewer episodes reach have no mean of their own.
_FEWEST_AT_STEP = 3
_ROWS_PER_REGRESSOR = 3
_ROUNDING = 1e-6


def share_explained(features: np.ndarray, regressors: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Return the share of each feature's variance that a linear function of the regressors explains, (D,).

    It is fitted on one half of the episodes and measured on the other one, in both ways; below 0 if it explains nothing,
    and 0 for a feature that never changes.

    Args:
        features: (N, D).
        regressors: (N, P); a constant is added.
        episode: (N,) number of each step's episode.
    """
    # Every other episode, not the first and the last half: logs change with time.
    half = episode % 2 == 0
    if half.all() or not half.any():
        half = np.arange(len(episode)) < len(episode) // 2
    with_constant = np.column_stack([regressors, np.ones(len(regressors))])
    remaining = np.zeros(features.shape[1])
    total = np.zeros(features.shape[1])
    for fitted in (half, ~half):
        if not fitted.any() or fitted.all():
            return np.zeros(features.shape[1])
        weights = np.linalg.lstsq(with_constant[fitted], features[fitted], rcond=1e-10)[0]
        held_out = features[~fitted]
        remaining += np.square(held_out - with_constant[~fitted] @ weights).sum(axis=0)
        total += np.square(held_out - held_out.mean(axis=0)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 1 - remaining / np.where(total > 0, total, 1), 0.0)


def is_determined(features: np.ndarray, regressors: np.ndarray) -> np.ndarray:
    """Return which features (D,) are exactly linear functions of the regressors; none if there are few rows for that.

    Args:
        features: (N, D).
        regressors: (N, P); a constant is added.
    """
    # In the same rows, unlike `share_explained`: a value that only one half has would count against an exact relation, and
    # no fit of so few numbers is exact by accident.
    if len(features) < _ROWS_PER_REGRESSOR * (regressors.shape[1] + 1):
        return np.zeros(features.shape[1], bool)
    with_constant = np.column_stack([regressors, np.ones(len(regressors))])
    fitted = with_constant @ np.linalg.lstsq(with_constant, features, rcond=1e-10)[0]
    return np.square(features - fitted).mean(axis=0) <= _ROUNDING * np.maximum(features.var(axis=0), _ROUNDING)


def categories(values: np.ndarray) -> np.ndarray:
    """Return one column of 0 and 1 per value of each part (N,) or (N, parts); rare values beyond a number share none."""
    # The most frequent values: the others occur too rarely to explain anything.
    parts = values.reshape(len(values), -1)
    columns = []
    for part in parts.T:
        known, counts = np.unique(part, return_counts=True)
        most = known[np.argsort(-counts, kind="stable")[:_MOST_CATEGORIES]]
        columns.append((part[:, None] == most[None]).astype(np.float64))
    return np.concatenate(columns, axis=1)


def smooth_functions(values: np.ndarray) -> np.ndarray:
    """Return columns of which linear functions follow any plain function of each of the numbers (N, A)."""
    numbers = values.reshape(len(values), -1).astype(np.float64)
    scaled = scaled_columns(numbers)
    columns = [scaled, np.square(scaled), np.abs(scaled), scaled**3]
    if numbers.shape[1] <= _MOST_BINNED:
        # Thresholds and steps, which powers do not follow.
        for column in numbers.T:
            edges = np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
            columns.append(categories(np.searchsorted(edges, column, side="right")))
    return np.concatenate(columns, axis=1)


def scaled_columns(numbers: np.ndarray) -> np.ndarray:
    """Return columns (N, P) with mean 0 and standard deviation 1; 0 where a column never changes."""
    std = numbers.std(axis=0)
    return (numbers - numbers.mean(axis=0)) / np.where(std > 0, std, 1.0)


def without_step_means(columns: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return columns (N, P) without what their step in the episode says: the mean over all episodes at that step.

    Without this, clocks and schedules would seem to know whatever grows or shrinks within episodes. Rows of steps that
    hardly any episode reaches become 0.
    """
    counts = np.bincount(step)
    result = np.empty_like(columns)
    for index in range(columns.shape[1]):
        means = np.bincount(step, columns[:, index]) / np.maximum(counts, 1)
        result[:, index] = columns[:, index] - means[step]
    result[counts[step] < _FEWEST_AT_STEP] = 0
    return result
