"""Passive T-maze: a cue at the first step says which way to turn at the last one (Ni et al. 2023, `tmaze.py`).

A policy that sees fewer than L + 1 steps cannot know the cue when it has to turn, and succeeds half of the time.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rl_transformer.runtime.types import JsonObject

FORWARD = 0
UP = 1
DOWN = 2
_CUES = {UP: 1.0, DOWN: -1.0}


class TMazeEnv(gym.Env[np.ndarray, np.int64]):
    """A corridor of ``length`` steps and a junction; the walk through the corridor happens by itself.

    Observation, (3,) float32: the cue (+1 up, -1 down, only at the first step), 1 in the corridor, 1
    at the junction. Reward 1 for the right turn. Episodes have ``length`` + 1 steps.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, length: int, render_mode: str | None = None) -> None:
        self.length = length
        self.observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.render_mode = render_mode
        self._step = 0
        self._cue = UP

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[np.ndarray, dict]:
        """Show the cue: up for even seeds, down for odd ones, random without a seed."""
        super().reset(seed=seed)
        is_down = int(self.np_random.integers(2)) if seed is None else seed % 2
        self._step = 0
        self._cue = DOWN if is_down else UP
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Walk on; at the junction the action is the turn."""
        at_junction = self._step == self.length
        reward = float(at_junction and int(action) == self._cue)
        self._step += 1
        return self._observe(), reward, at_junction, False, {}

    def _observe(self) -> np.ndarray:
        cue = _CUES[self._cue] if self._step == 0 else 0.0
        return np.array([cue, self._step < self.length, self._step >= self.length], np.float32)
