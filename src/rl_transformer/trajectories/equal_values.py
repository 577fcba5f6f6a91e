"""Find features that hold the very digits of another value in some of the steps, as columns do that were filled from it.

Shapes: N steps, D features, Q values.
"""

from __future__ import annotations

import numpy as np

_SMALLEST_SHARE = 0.05
# Few or frequent values, such as codes and bounds, are equal to others by chance.
_FEWEST_VALUES = 20
_RARE = 0.01
_BY_CHANCE = 0.1


def shares_of_equal_steps(features: np.ndarray, values: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the share of steps in which each feature (D,) is equal to one of the values; 0 where chance explains it.

    Args:
        features: (N, D).
        values: (N, Q), compared as float32.
        step: (N,) number of each step in its episode.
    """
    shares = np.zeros(features.shape[1])
    single = features.astype(np.float32)
    for column in values.astype(np.float32).T:
        before = np.roll(column, 1)
        # A feature may know the value of the step before, which says nothing where the two are the same.
        is_new = (step == 0) | (column != before)
        _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        is_rare = counts[which] <= _RARE * len(column)
        others = np.roll(column, len(column) // 3)
        for index in range(features.shape[1]):
            is_equal = (single[:, index] == column) & is_new & is_rare
            share = is_equal.mean()
            if share < max(_SMALLEST_SHARE, shares[index]) or len(np.unique(column[is_equal])) < _FEWEST_VALUES:
                continue
            if ((single[:, index] == others) & is_rare).mean() <= _BY_CHANCE * share:
                shares[index] = share
    return shares
