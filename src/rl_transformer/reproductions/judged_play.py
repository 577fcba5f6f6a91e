"""Episodes that are played at the same time, by policies that draw from probabilities or Gaussians.

Shapes: B episodes that are played together, D numbers of an observation, P parameters of an action: the probabilities of all
actions, or the means and spreads of a vector's numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

from rl_transformer.evaluation.offline.action_kinds import DRAWS, DiscreteActions, SeenLog, VectorActions
from rl_transformer.evaluation.offline.judge import LogEstimates
from rl_transformer.reproductions.finite_mdp import numbers_at
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space

Act: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Returns parameters (B, P) of actions from the present observations and those of the first steps, both (B, D)."""

DRAWN_WITH = "drawn_with"
"""Column of a log with the probability, or density, with which each action was drawn; not used unless it is named."""
_LARGEST_LOGGED = 10.0
_PLAYED_AT_ONCE = 50_000


class Played(ABC):
    """Episodes that are played at the same time."""

    @abstractmethod
    def reset(self, random: np.random.Generator) -> np.ndarray:
        """Begin all episodes, and return their observations (B, D)."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return next observations, rewards, and which episodes are over; those that were before mean nothing."""


class ActionKind(ABC):
    """How actions are drawn."""

    space: Space

    @abstractmethod
    def noise(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Return what decides on the actions of ``count`` episodes."""

    @abstractmethod
    def draw(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the actions that parameters (B, P) and noise make."""

    @abstractmethod
    def chances(self, parameters: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the probabilities or densities (B,) of actions."""

    @abstractmethod
    def see(self, logged: LogEstimates, parameters: np.ndarray) -> SeenLog:
        """Return a log as a policy sees it that has these parameters at its steps."""


class Classes(ActionKind):
    """One of some actions; the parameters are their probabilities."""

    def __init__(self, count: int) -> None:
        self.space = Space.discrete(count)

    def noise(self, count: int, random: np.random.Generator) -> np.ndarray:
        return random.random(count)

    def draw(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        # Cumulative probabilities may end a little below 1.
        return np.minimum(numbers_at(parameters.cumsum(1), noise), parameters.shape[1] - 1)

    def chances(self, parameters: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return parameters[np.arange(len(actions)), actions]

    def see(self, logged: LogEstimates, parameters: np.ndarray) -> SeenLog:
        assert isinstance(logged.actions, DiscreteActions)
        return logged.actions.see_probabilities(parameters, logged.is_last)


class Vectors(ActionKind):
    """Vectors whose numbers are drawn independently; the parameters are their means, and then their spreads."""

    def __init__(self, size: int) -> None:
        # Far beyond every action: they are logged as they were drawn, before an environment clips them.
        self.space = Space.box((size,), -_LARGEST_LOGGED, _LARGEST_LOGGED)

    def noise(self, count: int, random: np.random.Generator) -> np.ndarray:
        return random.standard_normal((count, *self.space.shape))

    def draw(self, parameters: np.ndarray, noise: np.ndarray) -> np.ndarray:
        means, spreads = np.split(parameters, 2, axis=1)
        # As they are logged: densities are those of what can be read there.
        return (means + spreads * noise).astype(np.float32)

    def chances(self, parameters: np.ndarray, actions: np.ndarray) -> np.ndarray:
        means, spreads = np.split(parameters, 2, axis=1)
        return stats.norm.pdf(actions, means, spreads).prod(1)

    def see(self, logged: LogEstimates, parameters: np.ndarray) -> SeenLog:
        """Return the log as a policy sees it, which is known by draws of its actions and its density of the logged ones."""
        assert isinstance(logged.actions, VectorActions)
        count, size = len(parameters), parameters.shape[1] // 2
        noise = np.random.default_rng(0xD2A5).standard_normal((count, DRAWS, size))
        means, spreads = (part[:, None] for part in np.split(parameters, 2, axis=1))
        chances = self.chances(parameters, np.asarray(logged.dataset.actions))
        # Minus infinity is meant where the density is rounded to 0.
        with np.errstate(divide="ignore"):
            log_policy = np.log(chances)
        return logged.actions.see_draws(means + spreads * noise, log_policy, logged.is_last)


@dataclass(frozen=True)
class Task:
    """An environment with a good and a bad policy, between which others are mixed."""

    title: str
    begin: Callable[[int], Played]
    kind: ActionKind
    history: int
    """Steps that the judge's networks read: as many as decide what follows, or as fit."""
    start: Act
    """A policy that knows nothing."""
    best: Act
    worst: Act
    usual_share: float
    """How much of the best policy is in the usual one, around which all others are mixed; the rest is ``start``."""
    exact: Callable[[Act], float] | None
    """Returns the value of a policy; None: it is the mean of simulated episodes."""
    simulated: int = 0
    """Simulated episodes, of which `_PLAYED_AT_ONCE` are played at a time."""
    third: Act | None = None
    """Towards what some policies are mixed, beside the best and the worst; None: ``start``."""

    def returns(self, act: Act) -> np.ndarray:
        """Return the returns of a policy's simulated episodes, or its exact value alone."""
        if self.exact is not None:
            return np.array([self.exact(act)])
        parts = []
        for first in range(0, self.simulated, _PLAYED_AT_ONCE):
            count = min(_PLAYED_AT_ONCE, self.simulated - first)
            # All policies begin alike and draw with the same noise, so that their differences are known better than their values.
            _, rewards, episode, *_ = self._play(act, count, np.random.default_rng([0x7A5C, first]))
            parts.append(np.bincount(episode, rewards, count))
        return np.concatenate(parts)

    def record(self, act: Act, episodes: int, random: np.random.Generator) -> TrajectoryDataset:
        """Return logged episodes of a policy."""
        observations, rewards, episode, actions, chances = self._play(act, episodes, random)
        # Collected timestep by timestep; a stable sort brings them into episodes.
        order = np.argsort(episode, kind="stable")
        borders = np.cumsum(np.bincount(episode))[:-1]
        columns = (np.split(column[order], borders) for column in (observations, actions, rewards, chances))
        return TrajectoryDataset.from_episodes(
            (
                {"observations": seen, "actions": done, "rewards": earned, "terminated": True, DRAWN_WITH: chance}
                for seen, done, earned, chance in zip(*columns, strict=True)
            ),
            action_space=self.kind.space,
        )

    def _play(self, act: Act, episodes: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return observations, rewards, episodes, actions and their probabilities of all steps."""
        played = self.begin(episodes)
        now = first = played.reset(random)
        live = np.ones(episodes, dtype=bool)
        parts = []
        while live.any():
            rows = np.flatnonzero(live)
            seen = now[rows]
            parameters = act(seen, first[rows])
            noise = self.kind.noise(episodes, random)
            done = self.kind.draw(parameters, noise[rows])
            actions = np.zeros((episodes, *done.shape[1:]), done.dtype)
            actions[rows] = done
            now, rewards, over = played.step(actions)
            parts.append((seen, rewards[rows].astype(np.float64), rows, done, self.kind.chances(parameters, done)))
            live &= ~over
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def mixed(first: Act, second: Act, share: float) -> Act:
    """Return a policy whose parameters lie between those of two others, by ``share`` on the way to the second.

    Of probabilities this is the policy that follows the second with probability ``share`` at every step.
    """
    return lambda *seen: (1 - share) * first(*seen) + share * second(*seen)
