"""Environments that others might have written: variations of the point with one thing out of the ordinary."""

import os
from pathlib import Path

import gymnasium as gym
import numpy as np

from tests.toys import PointEnv


class EndlessEnv(PointEnv):
    """The point without an end, and without a time limit."""

    length = 10**9


class NoRenderModeEnv(PointEnv):
    """Its constructor takes no arguments."""

    def __init__(self):
        super().__init__()


class SizedEnv(PointEnv):
    """Its constructor needs an argument, and its reward is scaled by it."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward * self.size, *rest


class OpenOnceEnv(PointEnv):
    """Only one can be open at the same time, as with a robot or a licensed simulator."""

    is_open = False

    def __init__(self):
        super().__init__()
        if OpenOnceEnv.is_open:
            raise OSError("the port is in use")
        OpenOnceEnv.is_open = True

    def close(self):
        OpenOnceEnv.is_open = False


class LicensedEnv(PointEnv):
    """At most ``licenses`` can be open at the same time, over all processes; a file in ``folder`` is one that is."""

    def __init__(self, folder, licenses):
        super().__init__()
        if len(list(Path(folder).iterdir())) >= licenses:
            raise OSError("no license is free")
        self._file = Path(folder) / f"{os.getpid()}-{id(self)}"
        self._file.touch()

    def close(self):
        self._file.unlink()


class ChangedEnv(PointEnv):
    """Changes what step() returns by a function of it."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def step(self, action):
        return self._change(*super().step(action))


class WrongResetEnv(PointEnv):
    """Changes what reset() returns by a function of it."""

    def __init__(self, change):
        super().__init__()
        self._change = change

    def reset(self, *, seed=None, options=None):
        return self._change(*super().reset(seed=seed))


class FailingEnv(PointEnv):
    """Raises an exception in one of its methods."""

    def __init__(self, method, error):
        super().__init__()
        self._method = method
        self._error = error

    def _fail(self, method):
        if method == self._method:
            raise self._error

    def reset(self, *, seed=None, options=None):
        self._fail("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self._fail("step")
        return super().step(action)

    def render(self):
        self._fail("render")
        return super().render()

    def close(self):
        self._fail("close")


class OldEnv:
    """An environment of the old gym API, which is no subclass of gymnasium's."""

    def __init__(self):
        self._point = PointEnv()
        self.observation_space = self._point.observation_space
        self.action_space = self._point.action_space

    def reset(self):
        return self._point.reset(seed=0)[0]

    def step(self, action):
        observation, reward, terminated, _, info = self._point.step(action)
        return observation, reward, terminated, info


class ParallelEnv:
    """What PettingZoo's parallel API looks like: dicts by agent, and spaces that are methods."""

    possible_agents = ("red", "blue")

    def observation_space(self, agent):
        return gym.spaces.Box(-1, 1, (2,))

    def action_space(self, agent):
        return gym.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, options=None):
        return {agent: np.zeros(2) for agent in self.possible_agents}, {agent: {} for agent in self.possible_agents}

    def step(self, actions):
        raise AssertionError("never called")


class BufferEnv(PointEnv):
    """Returns the same array every time, with new numbers in it, and changes the action that it is given."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self._buffer = observation
        return self._buffer, info

    def step(self, action):
        observation, *rest = super().step(action.copy())
        self._buffer[:] = observation
        action[:] = 0
        return self._buffer, *rest


class MaskedEnv(gym.Env):
    """Five actions of which the odd ones are legal at even steps, and the even ones at odd steps; illegal ones raise.

    ``report`` says how the mask is reported: "info", "method", or a function of the mask that changes it.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    n = 5

    def __init__(self, report="info"):
        self.observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(self.n)
        if report == "method":
            self.action_masks = self._mask
        self._report = report

    def _mask(self):
        return np.arange(self.n) % 2 != self.steps % 2

    def _info(self):
        if self._report == "method":
            return {}
        mask = self._mask()
        return {"action_mask": mask.astype(np.int8) if self._report == "info" else self._report(mask)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), self._info()

    def step(self, action):
        assert self._mask()[action], f"action {action} is illegal"
        self.steps += 1
        return np.full(2, self.steps / 6, np.float32), float(action), self.steps == 6, False, self._info()


class MaskedPartsEnv(gym.Env):
    """Actions of two parts, of three (from 1) and two values; one value of each is illegal and raises."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, form):
        self.observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
        self.action_space = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])
        self._form = form

    def _info(self):
        self._bad = (self.steps % 3, self.steps % 2)
        masks = (np.arange(3) != self._bad[0], np.arange(2) != self._bad[1])
        return {"action_mask": np.concatenate(masks) if self._form == "joined" else self._form(masks)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), self._info()

    def step(self, action):
        assert action[0] - 1 != self._bad[0], f"action {action} is illegal"
        assert action[1] != self._bad[1], f"action {action} is illegal"
        self.steps += 1
        return np.full(2, self.steps / 6, np.float32), 1.0, self.steps == 6, False, self._info()
