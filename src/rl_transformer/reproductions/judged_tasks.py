"""Tasks in which the judge's networks are tried: logs of any size, and 40 policies whose values are known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from rl_transformer.environments.key_to_door import EPISODE_STEPS, KeyToDoorEnv, success_rate
from rl_transformer.environments.t_maze import DOWN, FORWARD, UP, TMazeEnv
from rl_transformer.reproductions.experiment import JSON
from rl_transformer.reproductions.judged_hopper import HOPPER
from rl_transformer.reproductions.judged_play import Act, Classes, Played, Task, mixed

_CORRIDOR = 10
_MOST_STEPS = 100


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


def _one_of(number: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count)[number.astype(int)]


def _by_chance(count: int) -> Act:
    return lambda observations, first: np.full((len(observations), count), 1 / count)


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
        kind=Classes(3),
        history=_CORRIDOR + 1,
        start=_by_chance(3),
        best=_turn({1.0: UP, -1.0: DOWN}),
        worst=_turn({1.0: DOWN, -1.0: UP}),
        usual_share=0.2,
        exact=_turn_rate,
    ),
    "cartpole": Task(
        "CartPole",
        _CartPoles,
        kind=Classes(2),
        history=1,
        start=_by_chance(2),
        best=_balance,
        worst=_tip_over,
        usual_share=0.3,
        exact=None,
        simulated=1_000_000,
    ),
    "key-to-door": Task(
        "Key-to-Door",
        lambda count: _Copies(KeyToDoorEnv, count),
        kind=Classes(4),
        history=EPISODE_STEPS,
        start=_by_chance(4),
        best=_fetch_key,
        worst=_avoid_key,
        usual_share=0.4,
        exact=lambda act: success_rate(lambda seen: act(seen[None], seen[None])[0].tolist()),
    ),
    "hopper": HOPPER,
}

_SHARES = (0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.375, 0.45, 0.575, 0.7, 0.85, 1.0)
_THIRD_SHARES = tuple(i / 8 for i in range(1, 9))


@cache
def behaviors_of(task: Task) -> dict[str, Act]:
    """Return the policies that make logs."""
    usual = mixed(task.start, task.best, task.usual_share)
    return {"usual": usual, "exploring": mixed(usual, task.start, 0.3)}


@cache
def policies_of(task: Task) -> dict[str, Act]:
    """Return 40 policies of a task: the usual one mixed with better, worse and random ones."""
    usual = behaviors_of(task)["usual"]
    found = {f"best-{share:.3g}": mixed(usual, task.best, share) for share in _SHARES}
    found |= {f"worst-{share:.3g}": mixed(usual, task.worst, share) for share in _SHARES}
    return found | {f"third-{share:.3g}": mixed(usual, task.third or task.start, share) for share in _THIRD_SHARES}


def true_values(task: Task) -> JSON:
    """Return the range of values between the worst and the best policy, and every policy's difference to each behavior.

    Differences have standard errors, which are 0 where values are exact.
    """
    own = {name: task.returns(act) for name, act in behaviors_of(task).items()}
    policies = {}
    for name, act in policies_of(task).items():
        returns = task.returns(act)
        policies[name] = {behavior: _mean_and_error(returns - other) for behavior, other in own.items()}
    unit = float(task.returns(task.best).mean() - task.returns(task.worst).mean())
    return {
        "range": unit,
        "behaviors": {name: _mean_and_error(each) for name, each in own.items()},
        "policies": policies,
    }


def _mean_and_error(values: np.ndarray) -> list[float]:
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return [float(values.mean()), error]
