"""Tasks in which the judge's networks are tried: logs of any size, and policies whose values are known.

Shapes: B episodes that are played together, D numbers of an observation, A actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from rl_transformer.environments.key_to_door import EPISODE_STEPS, KeyToDoorEnv, success_rate
from rl_transformer.environments.t_maze import DOWN, FORWARD, UP, TMazeEnv
from rl_transformer.reproductions.finite_mdp import draw_numbers
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space

Act: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Returns the probabilities (B, A) of actions from the present observations and those of the first steps, both (B, D)."""

DRAWN_WITH = "drawn_with"
"""Column of a log with the probability with which each action was drawn; not the one that is used unless it is named."""

_CORRIDOR = 10
_MOST_STEPS = 100
_SIMULATED = 50_000


class Played(ABC):
    """Episodes that are played at the same time."""

    @abstractmethod
    def reset(self, random: np.random.Generator) -> np.ndarray:
        """Begin all episodes, and return their observations (B, D)."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return next observations, rewards, and which episodes are over; those that were before mean nothing."""


class _Copies(Played):
    """One environment object per episode; all episodes have the same length."""

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], count: int) -> None:
        self._each = [make() for _ in range(count)]

    def reset(self, random: np.random.Generator) -> np.ndarray:
        seeds = random.integers(2**31, size=len(self._each)).tolist()
        return np.stack([env.reset(seed=seed)[0] for env, seed in zip(self._each, seeds, strict=True)])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [env.step(action) for env, action in zip(self._each, actions.tolist(), strict=True)]
        rewards = np.array([float(row[1]) for row in found])
        return np.stack([row[0] for row in found]), rewards, np.array([row[2] for row in found])


class _CartPoles(Played):
    """Gymnasium's vector of CartPoles, of which each slot's first episode counts."""

    def __init__(self, count: int) -> None:
        self._vector = CartPoleVectorEnv(count, max_episode_steps=_MOST_STEPS)

    def reset(self, random: np.random.Generator) -> np.ndarray:
        return self._vector.reset(seed=int(random.integers(2**31)))[0]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, truncated, _ = self._vector.step(actions)
        return observations, rewards, terminated | truncated


@dataclass(frozen=True)
class Task:
    """An environment with a good and a bad policy, between which others are mixed."""

    title: str
    begin: Callable[[int], Played]
    num_actions: int
    history: int
    """Steps that the judge's networks read: as many as decide what follows, or as fit."""
    best: Act
    worst: Act
    usual_share: float
    """How much of the best policy is in the one around which all others are mixed; the rest is random."""
    exact: Callable[[Act], float] | None
    """Returns the value of a policy; None: it is the mean of 50,000 simulated episodes."""

    def random(self, observations: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Act by chance."""
        return np.full((len(observations), self.num_actions), 1 / self.num_actions)

    def value(self, act: Act) -> float:
        """Return a policy's value."""
        if self.exact is not None:
            return self.exact(act)
        _, rewards, episode, *_ = self._play(act, _SIMULATED, np.random.default_rng(0x7A5C))
        return float(np.bincount(episode, rewards).mean())

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
            action_space=Space.discrete(self.num_actions),
        )

    def _play(self, act: Act, episodes: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return observations, rewards, episodes, actions and their probabilities of all steps."""
        played = self.begin(episodes)
        now = first = played.reset(random)
        live = np.ones(episodes, dtype=bool)
        parts = []
        actions = np.zeros(episodes, dtype=np.int64)
        while live.any():
            rows = np.flatnonzero(live)
            seen = now[rows]
            shares = act(seen, first[rows])
            actions[rows] = np.minimum(draw_numbers(shares.cumsum(1), random), self.num_actions - 1)
            now, rewards, over = played.step(actions)
            chances = shares[np.arange(len(rows)), actions[rows]]
            parts.append((seen, rewards[rows].astype(np.float64), rows, actions[rows], chances))
            live &= ~over
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def mixed(first: Act, second: Act, share: float) -> Act:
    """Return a policy that follows the second with probability ``share`` at every step, and otherwise the first."""
    return lambda *seen: (1 - share) * first(*seen) + share * second(*seen)


def _one_of(number: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count)[number.astype(int)]


def _fetch_key(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Go for the key or the door by the shortest way; where neither is in sight, walk by chance."""
    north, south, west, east = range(4)
    row, column, key_row, key_column = np.rint(10 * observations[:, [3, 4, 6, 7]].T)
    in_lower_part = row > 2
    # Through the gap of columns 2 to 4 into the upper part, where keys are.
    through = np.where((row >= 4) & (column < 2), east, np.where((row >= 4) & (column > 4), west, north))
    sideways = np.where(column < key_column, east, west)
    upright = np.where(row < key_row, south, north)
    to_key = np.where(in_lower_part, through, np.where(column == key_column, upright, sideways))
    to_door = np.where(column < 2, east, np.where(column > 2, west, north))
    sees_key, sees_door = observations[:, 5] > 0, observations[:, 2] > 0
    chosen = _one_of(np.where(sees_door, to_door, to_key), 4)
    return np.where((sees_key | sees_door)[:, None], chosen, 0.25)


def _avoid_key(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
    return _fetch_key(observations, first)[:, [1, 0, 3, 2]]  # the opposite move


def _turn(towards: dict[float, int]) -> Act:
    """Return a policy that walks on, and turns at the junction by the cue of the first step."""

    def act(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
        turns = np.where(first[:, 0] > 0, towards[1.0], towards[-1.0])
        return _one_of(np.where(observations[:, 2] > 0, turns, FORWARD), 3)

    return act


def _turn_rate(act: Act) -> float:
    """Return how often a policy turns the right way at the end of the T-maze: exact, because walking on needs no action."""
    junction = np.array([[0.0, 0.0, 1.0]])
    found = [act(junction, np.array([[cue, 1.0, 0.0]]))[0, turn] for cue, turn in ((1.0, UP), (-1.0, DOWN))]
    return float(np.mean(found))


def _balance(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Push to the side to which the pole falls, and back to the middle."""
    push = observations @ np.array([0.05, 0.2, 1.0, 0.4])
    return _one_of(push > 0, 2)


def _tip_over(observations: np.ndarray, first: np.ndarray) -> np.ndarray:
    return 1 - _balance(observations, first)


TASKS = {
    "t-maze": Task(
        "T-maze",
        lambda count: _Copies(lambda: TMazeEnv(_CORRIDOR), count),
        num_actions=3,
        history=_CORRIDOR + 1,
        best=_turn({1.0: UP, -1.0: DOWN}),
        worst=_turn({1.0: DOWN, -1.0: UP}),
        usual_share=0.2,
        exact=_turn_rate,
    ),
    "cartpole": Task(
        "CartPole",
        _CartPoles,
        num_actions=2,
        history=1,
        best=_balance,
        worst=_tip_over,
        usual_share=0.3,
        exact=None,
    ),
    "key-to-door": Task(
        "Key-to-Door",
        lambda count: _Copies(KeyToDoorEnv, count),
        num_actions=4,
        history=EPISODE_STEPS,
        best=_fetch_key,
        worst=_avoid_key,
        usual_share=0.4,
        exact=lambda act: success_rate(lambda seen: act(seen[None], seen[None])[0].tolist()),
    ),
}

_SHARES = {"best": (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0), "worst": (0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)}
_RANDOM_SHARES = (0.25, 0.5, 0.75, 1.0)


@cache
def behaviors_of(task: Task) -> dict[str, Act]:
    """Return the policies that make logs."""
    usual = mixed(task.random, task.best, task.usual_share)
    return {"usual": usual, "exploring": mixed(usual, task.random, 0.3)}


@cache
def policies_of(name: str) -> dict[str, Act]:
    """Return 20 policies of a task: the usual one mixed with better, worse and random ones."""
    task = TASKS[name]
    usual = behaviors_of(task)["usual"]
    found = {f"best-{share:.3g}": mixed(usual, task.best, share) for share in _SHARES["best"]}
    found |= {f"worst-{share:.3g}": mixed(usual, task.worst, share) for share in _SHARES["worst"]}
    return found | {f"random-{share:.3g}": mixed(usual, task.random, share) for share in _RANDOM_SHARES}


@cache
def value_of(name: str, act: Act) -> float:
    """Return the value of a policy of a task; simulated ones take seconds."""
    return TASKS[name].value(act)
