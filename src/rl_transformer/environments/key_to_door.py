"""Key-to-Door: pick up a key, cross an empty room, open a door.

The rooms, the four actions and the phases of 15 steps are those of the original environment (Hung et
al. 2018, `tvt/pycolab/key_to_door.py`), with an empty middle room and a reward of 1 at the door, as
Decision Transformer describes its variant. A uniformly random agent succeeds in 2.815 % of episodes
(`random_success_rate`); the Decision Transformer paper reports 3.1 % for its own, unpublished rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from rl_transformer.runtime.types import JsonObject

# '#' wall, 'k' a place for the key, '+' a place where the player may start, 'd' the door (a wall without key).
KEY_ROOM = (
    "#######",
    "#kkkkk#",
    "#kkkkk#",
    "##   ##",
    "#+++++#",
    "#+++++#",
    "#######",
)
EMPTY_ROOM = (
    "###########",
    "#         #",
    "#         #",
    "#         #",
    "#         #",
    "#    +    #",
    "###########",
)
DOOR_ROOM = (
    "##d##",
    "#   #",
    "# + #",
    "#   #",
    "#####",
)
ROOMS = (KEY_ROOM, EMPTY_ROOM, DOOR_ROOM)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # north, south, west, east
PHASE_STEPS = 15
EPISODE_STEPS = PHASE_STEPS * len(ROOMS)
OBSERVATION_DIM = 8
_LARGEST_COORDINATE = 10.0  # coordinates are divided by this
_PIXELS_PER_CELL = 16

_FLOOR_COLOR = 235
_WALL_COLOR = (60, 64, 72)
_OPEN_DOOR_COLOR = (60, 160, 90)
_CLOSED_DOOR_COLOR = (150, 100, 60)
_KEY_COLOR = (240, 190, 40)
_PLAYER_COLOR = (40, 90, 200)

Cell = tuple[int, int]


def cells(room: tuple[str, ...], symbol: str) -> list[Cell]:
    """Return the places of a symbol in a room, row by row."""
    return [(row, column) for row, line in enumerate(room) for column, s in enumerate(line) if s == symbol]


@dataclass
class State:
    """Where player and key are, and how many steps have passed."""

    step: int
    player: Cell
    key: Cell
    has_key: bool = False


class KeyToDoorEnv(gym.Env[np.ndarray, np.int64]):
    """Three rooms, one after the other; every episode has 45 steps.

    Observation, (8,) float32: the phase as one-hot (3), the player's row and column / 10, and
    whether the key can be seen, its row and its column / 10 (zeros when taken or in another room).
    Whether the player holds the key is hidden in the later phases.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012  gymnasium's own form

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (OBSERVATION_DIM,), np.float32)
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self.render_mode = render_mode
        self._state = State(0, (0, 0), (0, 0))

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[np.ndarray, dict]:
        """Place key and player at random; the same seed gives the same places."""
        super().reset(seed=seed)
        self._state = State(0, self._draw(KEY_ROOM, "+"), self._draw(KEY_ROOM, "k"))
        return observe(self._state), {}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move; the last step of a phase leads to the next room, the last of all ends the episode."""
        state = self._state
        reward = 0.0
        room = ROOMS[state.step // PHASE_STEPS]
        down, right = MOVES[int(action)]
        row = state.player[0] + down
        column = state.player[1] + right
        # The door is in the border of its room: from there a step north leads to row -1, outside of the room.
        if room[row][column] == "d" and state.has_key:
            reward = 1.0
            state.has_key = False
            state.player = (row, column)
        elif 0 <= row < len(room) and room[row][column] not in "#d":
            state.player = (row, column)
        if room is KEY_ROOM and state.player == state.key:
            state.has_key = True
        state.step += 1
        over = state.step == EPISODE_STEPS
        if state.step % PHASE_STEPS == 0 and not over:
            state.player = cells(ROOMS[state.step // PHASE_STEPS], "+")[0]
        return observe(state), reward, over, False, {}

    def _draw(self, room: tuple[str, ...], symbol: str) -> Cell:
        places = cells(room, symbol)
        return places[int(self.np_random.integers(len(places)))]

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the room as a picture: player blue, key yellow, door brown (green when it can open)."""
        state = self._state
        phase = min(state.step, EPISODE_STEPS - 1) // PHASE_STEPS
        room = ROOMS[phase]
        picture = np.full((len(KEY_ROOM), len(EMPTY_ROOM[0]), 3), _FLOOR_COLOR, np.uint8)
        for cell in cells(room, "#"):
            picture[cell] = _WALL_COLOR
        for cell in cells(room, "d"):
            picture[cell] = _OPEN_DOOR_COLOR if state.has_key else _CLOSED_DOOR_COLOR
        if phase == 0 and not state.has_key:
            picture[state.key] = _KEY_COLOR
        picture[state.player] = _PLAYER_COLOR
        return picture.repeat(_PIXELS_PER_CELL, axis=0).repeat(_PIXELS_PER_CELL, axis=1)


def observe(state: State) -> np.ndarray:
    """Return the observation (8,) of a state."""
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    phase = min(state.step, EPISODE_STEPS - 1) // PHASE_STEPS
    observation[phase] = 1
    observation[3:5] = np.divide(state.player, _LARGEST_COORDINATE)
    if phase == 0 and not state.has_key:
        observation[5] = 1
        observation[6:8] = np.divide(state.key, _LARGEST_COORDINATE)
    return observation


def random_success_rate() -> float:
    """Return the exact success probability of uniformly random actions."""
    return success_rate(lambda _: [1 / len(MOVES)] * len(MOVES))


def success_rate(act: Callable[[np.ndarray], Sequence[float]]) -> float:
    """Return the exact success probability of a policy that acts by its observation alone, by dynamic programming.

    Args:
        act: Returns the probabilities of the four moves for an observation (8,).
    """
    keys = cells(KEY_ROOM, "k")
    key_is_taken = sum(_goal_probability(0, key, act) for key in keys) / len(keys)
    (door,) = cells(DOOR_ROOM, "d")
    return key_is_taken * _goal_probability(2, door, act)


def _goal_probability(phase: int, goal: Cell, act: Callable[[np.ndarray], Sequence[float]]) -> float:
    """Return the probability that a walk of one phase touches ``goal``, over random starts."""
    room = ROOMS[phase]
    starts = cells(room, "+")
    probabilities = dict.fromkeys(starts, 1 / len(starts))  # of being in a cell without having touched the goal
    reached = 0.0
    for _ in range(PHASE_STEPS):
        following: dict[Cell, float] = {}
        for (row, column), probability in probabilities.items():
            # Without a key in the later phases there is nothing to reach; with one nothing shows that it is held.
            moves = act(observe(State(phase * PHASE_STEPS, (row, column), goal)))
            for (down, right), share in zip(MOVES, moves, strict=True):
                cell = (row + down, column + right)
                if cell == goal:
                    reached += probability * share
                    continue
                blocked = room[cell[0]][cell[1]] in ("#", "d")
                landing = (row, column) if blocked else cell
                following[landing] = following.get(landing, 0.0) + probability * share
        probabilities = following
    return reached
