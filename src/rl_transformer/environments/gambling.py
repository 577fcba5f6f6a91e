"""A gamble on which conditioning on a return selects luck (Paster et al. 2022, `gambling.py`)."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rl_transformer.runtime.types import JsonObject

# Outcomes of each action, equally likely.
OUTCOMES = ((5.0, -15.0), (1.0, -6.0), (1.0, 1.0))


class GamblingEnv(gym.Env[np.ndarray, np.int64]):
    """One decision: +5 or -15, +1 or -6, or +1 for sure. The third is the best, at +1.

    The observation holds no information: (1,) zeros.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(len(OUTCOMES))
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode of one step; the seed decides its luck."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Draw the outcome; the episode is over."""
        reward = OUTCOMES[int(action)][int(self.np_random.integers(2))]
        return np.zeros(1, np.float32), reward, True, False, {}
