"""Compute returns-to-go, the rewards that an episode still earns."""

from __future__ import annotations

import numpy as np


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Return R_t = r_t + r_(t+1) + ... + r_T of one episode: (T,) -> (T,) float64.

    The sum is undiscounted and includes the reward of step t itself (Chen et al. 2021, section 3).
    """
    # A cumulative sum from the end costs O(T), and float64 keeps its rounding error negligible over long episodes.
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]
