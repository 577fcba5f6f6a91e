"""A choice on the way to the goal: a return labels whole episodes and does not join parts of different ones."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rl_transformer.runtime.types import JsonObject

GO = 0
TO_X = 1
TO_G = 2
LEAVE = 3
_NUM_ACTIONS = 4


class StitchingEnv(gym.Env[np.ndarray, np.int64]):
    """From A to M, and there a choice: X earns 0, G earns 1. To leave at A earns 0.5. No logged walk from A went to G.

    Observation, (3,) float32: A, B (where the good walks of a log may begin) or M, as one-hot.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(_NUM_ACTIONS)
        self.render_mode = render_mode
        self._at_m = False

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[np.ndarray, dict]:
        """Begin at A."""
        super().reset(seed=seed)
        self._at_m = False
        return np.array([1, 0, 0], np.float32), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Leave, or go from A to M by any other action; at M every action ends the episode."""
        leaves = not self._at_m and int(action) == LEAVE
        reward = 0.5 if leaves else float(self._at_m and int(action) == TO_G)
        terminated = self._at_m or leaves
        self._at_m = True
        return np.array([0, 0, 1], np.float32), reward, terminated, False, {}
