"""Hopper for the trial of the judge: its first 50 steps, and a simple controller.

Shapes: B episodes, D = 11 numbers of an observation, A = 3 joints.
"""

from __future__ import annotations

from importlib import import_module

import gymnasium as gym
import numpy as np

from rl_transformer.errors import require
from rl_transformer.reproductions.judged_play import Act, Played, Task, Vectors

MOST_STEPS = 50
"""Weights are products over all steps, and with 1,000 of them no log supports any policy but its own."""
SPREAD = 0.4
"""Standard deviation with which the policies draw their actions."""
JOINTS = 3
# Found once by a random search of 400 tries, studies/judge_hopper_controller.py: about 90 in 50 steps.
_CONTROLLER = np.array([[0.32, 0.46, 0.80], [2.09, 0.37, -1.27], [-1.14, -0.13, 0.09]])
_LARGEST_MEAN = 0.7
_ANGLE, _ANGULAR_VELOCITY = 1, 7


def controller(observations: np.ndarray, numbers: np.ndarray = _CONTROLLER) -> np.ndarray:
    """Return mean actions (B, A): constants, and what the torso's angle and its angular velocity change in them."""
    inputs = np.stack([np.ones(len(observations)), observations[:, _ANGLE], observations[:, _ANGULAR_VELOCITY]], axis=1)
    return np.clip(inputs @ numbers, -_LARGEST_MEAN, _LARGEST_MEAN)


class Hoppers(Played):
    """Gymnasium's Hopper-v5: one simulation, into which each episode's state is put for its step."""

    def __init__(self, count: int) -> None:
        require("mujoco", extra="mujoco", purpose="Hopper")
        from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

        self._mujoco = mujoco = import_module("mujoco")
        env = gym.make("Hopper-v5").unwrapped
        assert isinstance(env, HopperEnv)
        self._env = env
        self._model, self._data = self._env.model, self._env.data
        # With what the solver begins from: without it states would differ from gymnasium's in their last digits.
        self._parts = int(mujoco.mjtState.mjSTATE_FULLPHYSICS | mujoco.mjtState.mjSTATE_WARMSTART)
        self._states = np.zeros((count, mujoco.mj_stateSize(self._model, self._parts)))
        self._moving = np.zeros((count, self._model.nq + self._model.nv))
        self._live = np.ones(count, dtype=bool)
        self._steps = 0

    def reset(self, random: np.random.Generator) -> np.ndarray:
        seeds = random.integers(2**31, size=len(self._live)).tolist()
        for row, seed in enumerate(seeds):
            self._env.reset(seed=seed)
            self._read(row)
        self._live[:] = True
        self._steps = 0
        return self._observe()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take one step in every episode that is not over."""
        done = np.clip(actions, -1, 1)
        before = self._moving[:, 0].copy()
        for row in np.flatnonzero(self._live).tolist():
            self._mujoco.mj_setState(self._model, self._data, self._states[row], self._parts)
            self._data.ctrl[:] = done[row]
            self._mujoco.mj_step(self._model, self._data, self._env.frame_skip)
            self._read(row)
        healthy = self._are_healthy()
        # The reward of `HopperEnv`: speed forwards, being healthy, and the cost of actions.
        rewards = (self._moving[:, 0] - before) / self._env.dt + healthy - 1e-3 * (done**2).sum(1)
        self._steps += 1
        self._live = self._live & healthy & (self._steps < MOST_STEPS)
        return self._observe(), rewards, ~self._live

    def _read(self, row: int) -> None:
        self._mujoco.mj_getState(self._model, self._data, self._states[row], self._parts)
        self._moving[row] = np.concatenate([self._data.qpos, self._data.qvel])

    def _observe(self) -> np.ndarray:
        # Where it is does not matter, and gymnasium clips velocities.
        positions, velocities = np.split(self._moving, [self._model.nq], axis=1)
        return np.concatenate([positions[:, 1:], np.clip(velocities, -10, 10)], axis=1)

    def _are_healthy(self) -> np.ndarray:
        height, angle, rest = self._moving[:, 1], self._moving[:, 2], self._moving[:, 2:]
        return (height > 0.7) & (np.abs(angle) < 0.2) & (np.abs(rest) < 100).all(1)


def _around(share: float, spread: float) -> Act:
    """Return a policy whose mean is a share of what the controller does."""

    def act(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
        means = share * controller(observations)
        return np.concatenate([means, np.full_like(means, spread)], axis=1)

    return act


_USUAL_SHARE = 0.2
HOPPER = Task(
    "Hopper",
    Hoppers,
    kind=Vectors(JOINTS),
    history=1,
    start=_around(0, SPREAD),
    best=_around(1, SPREAD),
    worst=_around(-1, SPREAD),
    usual_share=_USUAL_SHARE,
    exact=None,
    simulated=12_000,
    # As the usual policy, with less noise: the third way in which a policy of vectors can differ.
    third=_around(_USUAL_SHARE, 0.8 * SPREAD),
)
