"""Returns-to-go: what an episode still earns."""

from __future__ import annotations

import numpy as np


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Return R_t = r_t + r_(t+1) + ... of one episode: (T,) -> (T,) float64.

    Undiscounted, the reward of step t included (Chen et al. 2021, section 3).
    """
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]
