"""Play Pong and Breakout by simple rules, to make data of any quality without a trained agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

from rl_transformer.errors import RLTransformerError

if TYPE_CHECKING:
    import gymnasium

PREFIX = "scripted:"
Memory = np.ndarray
"""The 128 bytes of a game's memory, uint8."""


class PongTracker:
    """Keeps the paddle at the height of the ball, so that every picture shows where it has to go."""

    # Places in the game's memory, and positions in its units; found by playing.
    _BALL_X, _BALL_Y, _PADDLE_Y = 49, 54, 51
    _TOP, _BOTTOM, _PADDLE_X, _MIDDLE = 44, 207, 189, 130
    _STAY, _UP, _DOWN = 0, 2, 3
    _AIM = -6.0  # the paddle's position is its upper edge: the ball meets the middle at about this distance
    _SPREAD = 3.0  # off the middle, the ball leaves at a steep angle, which the opponent misses more often
    _AHEAD = 2.0  # steps: the paddle needs about as long to follow
    # The paddle keeps moving after an action: about 22 units for a single one, of which the last action has 15 to go. Half of
    # a movement is the best tolerance, because a smaller one makes the paddle swing around its target.
    _COAST, _COAST_PER_SPEED, _TOLERANCE = 15.0, 0.36, 11.0
    _SERVE = 40  # a ball that moved farther in a step was served anew

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None
        self._paddle_before: int | None = None
        self._direction = 0
        self._comes_closer = False
        self._aim = self._AIM

    def act(self, memory: Memory, random: np.random.Generator) -> int:
        """Return the action for the present state of the game."""
        x, y, paddle = (int(memory[place]) for place in (self._BALL_X, self._BALL_Y, self._PADDLE_Y))
        speed = 0 if self._paddle_before is None else paddle - self._paddle_before
        self._paddle_before = paddle
        comes_to_rest = paddle + self._COAST * self._direction + self._COAST_PER_SPEED * speed
        distance = self._target(x, y, random) - comes_to_rest
        self._direction = 0 if abs(distance) <= self._TOLERANCE else int(np.sign(distance))
        return {0: self._STAY, -1: self._UP, 1: self._DOWN}[self._direction]

    def _target(self, x: int, y: int, random: np.random.Generator) -> float:
        """Return where the paddle should be, for a ball at (x, y)."""
        before = self._before
        self._before = (x, y) if y else None  # 0: there is no ball on the screen
        if before is None or not y or abs(x - before[0]) > self._SERVE:
            return self._MIDDLE
        speed_x, speed_y = x - before[0], y - before[1]
        if self._comes_closer and speed_x < 0:  # hit: aim anew, or rallies would repeat for ever
            self._aim = self._AIM + random.uniform(-self._SPREAD, self._SPREAD)
        self._comes_closer = speed_x > 0
        if not self._comes_closer:
            return y + self._aim
        steps = min(self._AHEAD, max(0.0, (self._PADDLE_X - x) / speed_x))
        return self._reflect(y + speed_y * steps) + self._aim

    def _reflect(self, y: float) -> float:
        """Return where a ball is that would be at ``y`` if it were not reflected at the walls."""
        span = self._BOTTOM - self._TOP
        folded = (y - self._TOP) % (2 * span)
        return self._TOP + (folded if folded <= span else 2 * span - folded)


class BreakoutTracker:
    """Keeps the paddle below the ball, and launches a ball if there is none."""

    _BALL_X, _BALL_Y, _PADDLE_X = 99, 101, 72
    _STAY, _FIRE, _RIGHT, _LEFT = 0, 1, 2, 3
    _OFFSET, _TOLERANCE = -8.0, 4.0

    def act(self, memory: Memory, random: np.random.Generator) -> int:
        """Return the action for the present state of the game."""
        if not memory[self._BALL_Y]:
            return self._FIRE
        distance = int(memory[self._BALL_X]) + self._OFFSET - int(memory[self._PADDLE_X])
        if abs(distance) <= self._TOLERANCE:
            return self._STAY
        return self._RIGHT if distance > 0 else self._LEFT


TRACKERS: dict[str, type[PongTracker] | type[BreakoutTracker]] = {"Pong": PongTracker, "Breakout": BreakoutTracker}


def scripted_behavior(name: str, environment: gymnasium.Env) -> Callable[[Any, np.random.Generator], int]:
    """Return a function from an observation and an episode's random numbers to an action.

    Args:
        name: ``scripted:tracker``, with ``?noise=0.3`` for the share of random actions, or ``?noise=0..1`` for a share
            that every episode draws anew.
        environment: A game of ale-py that has a script.

    Raises:
        RLTransformerError: There is no such script, no script for this environment, or the noise is no share.
    """
    kind, _, query = name.removeprefix(PREFIX).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if kind != "tracker" or set(options) - {"noise"}:
        fix = "write scripted:tracker, scripted:tracker?noise=0.3 or scripted:tracker?noise=0..1"
        raise RLTransformerError(f"there is no script {name!r}", where="--policy", fix=fix)
    spec = environment.spec
    game = "" if spec is None else spec.id.removeprefix("ALE/").partition("-")[0]
    if game not in TRACKERS:
        fix = f"use one of {', '.join(f'ALE/{known}-v5' for known in TRACKERS)}"
        raise RLTransformerError(f"there is no tracker for {game or environment}", where="--policy", fix=fix)
    return _Behavior(TRACKERS[game], _noise(options.get("noise", "0")), environment)


def _noise(text: str) -> tuple[float, float]:
    """Return the smallest and the largest share of random actions."""
    low, dots, high = text.partition("..")
    try:
        bounds = (float(low), float(high) if dots else float(low))
    except ValueError:
        bounds = (-1.0, -1.0)
    if not 0 <= bounds[0] <= bounds[1] <= 1:
        fix = "give a number from 0 to 1, or two as 0..1"
        raise RLTransformerError(f"{text!r} is not a share of random actions", where="scripted: noise", fix=fix)
    return bounds


class _Behavior:
    """Acts as a tracker, with a share of random actions."""

    def __init__(
        self,
        tracker: type[PongTracker] | type[BreakoutTracker],
        noise: tuple[float, float],
        environment: gymnasium.Env,
    ) -> None:
        self._new_tracker = tracker
        self._bounds = noise
        self._environment = environment
        self._random: np.random.Generator | None = None
        self._tracker = tracker()
        self._noise = 0.0

    def __call__(self, observation: Any, random: np.random.Generator) -> int:
        if random is not self._random:  # every episode has random numbers of its own
            self._random = random
            self._tracker = self._new_tracker()
            self._noise = random.uniform(*self._bounds)
        game: Any = self._environment.unwrapped  # of ale-py, which may not be installed
        action = self._tracker.act(game.ale.getRAM(), random)
        return int(random.integers(game.action_space.n)) if random.random() < self._noise else action
