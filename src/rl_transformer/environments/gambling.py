"""Two small tasks on which asking for a return fails, each for its own reason."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

# Outcomes of each action, equally likely (Paster et al. 2022, `gambling.py`).
OUTCOMES = ((5.0, -15.0), (1.0, -6.0), (1.0, 1.0))

GO, TO_X, TO_G, LEAVE = 0, 1, 2, 3


class GamblingEnv(gym.Env):
    """One decision: +5 or -15, +1 or -6, or +1 for sure. The third is the best, at +1.

    Observation: nothing, (1,) zeros.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(len(OUTCOMES))
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode of one step; the seed decides its luck."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Draw the outcome."""
        reward = OUTCOMES[int(action)][int(self.np_random.integers(2))]
        return np.zeros(1, np.float32), reward, True, False, {}


class StitchingEnv(gym.Env):
    """From A to M, and there a choice: X earns 0, G earns 1. To leave at A earns 0.5. No logged walk from A went to G.

    Observation, (3,) float32: A, B (where the good walks of a log may begin) or M, as one-hot.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(4)
        self.render_mode = render_mode
        self._at_m = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin at A."""
        super().reset(seed=seed)
        self._at_m = False
        return np.array([1, 0, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Leave, or go from A to M by any other action; at M every action ends the episode."""
        leaves = not self._at_m and int(action) == LEAVE
        reward = 0.5 if leaves else float(self._at_m and int(action) == TO_G)
        over, self._at_m = self._at_m or leaves, True
        return np.array([0, 0, 1], np.float32), reward, over, False, {}
