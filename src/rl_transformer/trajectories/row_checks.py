"""Checks of single steps in a whole dataset: repeated ones, padding, steps of zeros, codes for missing values, copied columns.

Shapes: N steps, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding, shifted
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.trajectory import Trajectory

# What happens in more than this share of the steps is how the environment is, and no fault of the recording.
_RARE = 0.02
# Numbers that programs write where a value is missing.
CODES = np.array([s * c for c in (999.0, 9999.0, 99999.0, 999999.0, -9.0, 1e20, 2147483647.0) for s in (1, -1)])
# A code lies this many times the range of all other values away from them, and occurs this often.
_FAR = 1.0
_FEWEST_CODES = 2
# Wider arrays are flattened pictures.
_WIDEST = 4_096


@dataclass
class _Places:
    """Counts steps and keeps the first of them."""

    count: int = 0
    first: list[dict[str, int]] = field(default_factory=list)

    def add(self, episode: int, offsets: np.ndarray, rows: np.ndarray) -> None:
        """Add rows (N,) of episodes that begin at ``offsets``."""
        self.count += len(rows)
        for row in rows[: MAX_POSITIONS - len(self.first)]:
            which = int(np.searchsorted(offsets, row, side="right")) - 1
            self.first.append({"episode": episode + which, "step": int(row - offsets[which])})

    def join(self, later: _Places, first_episode: int) -> None:
        """Add the places of later episodes."""
        self.count += later.count
        self.first += shifted(later.first, first_episode)[: MAX_POSITIONS - len(self.first)]


class Rows:
    """Finds steps that repeat the one before, padding at the end of episodes, and steps whose observation is all zeros."""

    def __init__(self) -> None:
        self._repeated = _Places()
        self._padding = _Places()
        self._zeros = _Places()
        self._num_steps = 0
        self._num_episodes = 0

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the steps of episodes; see `StepCheck`."""
        observations = _float_columns(rows)
        if observations is None:
            return
        num_rows = len(observations)
        self._num_steps += num_rows
        self._num_episodes += len(offsets) - 1
        first = np.zeros(num_rows, bool)
        first[offsets[:-1]] = True
        same = ~first[1:] & (observations[1:] == observations[:-1]).all(axis=1)
        candidates = np.flatnonzero(same) + 1
        if candidates.size:
            flat = actions.reshape(num_rows, -1)
            repeated = (flat[candidates] == flat[candidates - 1]).all(axis=1)
            repeated &= rows.rewards[candidates] == rows.rewards[candidates - 1]
            # On a grid a step against a wall repeats the one before; values that are not whole hardly ever do.
            repeated &= (observations[candidates] != np.floor(observations[candidates])).any(axis=1)
            self._repeated.add(episode, offsets, candidates[repeated])
        zero = np.asarray(~observations.any(axis=1))
        if zero.any() and observations.shape[1] > 1:
            self._add_zeros(episode, offsets, rows, actions, zero, first)

    def _add_zeros(
        self,
        episode: int,
        offsets: np.ndarray,
        rows: Trajectory,
        actions: np.ndarray,
        zero: np.ndarray,
        first: np.ndarray,
    ) -> None:
        """Tell padding, which is zeros up to the end of an episode, from single steps of zeros."""
        empty = zero & (rows.rewards == 0) & ~actions.reshape(len(zero), -1).any(axis=1)
        tails = np.zeros(len(zero), bool)
        for index in np.flatnonzero(empty[offsets[1:] - 1]):
            begin, end = int(offsets[index]), int(offsets[index + 1])
            start = _tail_begins(empty[begin:end])
            if start is not None:
                tails[begin + start : end] = True
                self._padding.add(episode, offsets, np.array([begin + start]))
        # Many environments begin at zeros.
        self._zeros.add(episode, offsets, np.flatnonzero(zero & ~first & ~tails))

    def join(self, later: Rows, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        self._repeated.join(later._repeated, first_episode)
        self._padding.join(later._padding, first_episode)
        self._zeros.join(later._zeros, first_episode)
        self._num_steps += later._num_steps
        self._num_episodes += later._num_episodes

    def findings(self) -> Iterator[Finding]:
        """Yield warnings."""
        few = max(_RARE * self._num_steps, 1)
        if 0 < self._repeated.count <= few:
            fix = "remove the copies: the recorder wrote a step twice, or stalled"
            problem = "repeats the one before: observation, action and reward"
            yield Finding("warning", "repeated step", "step", problem, fix, self._repeated.count, self._repeated.first)
        if self._padding.count:
            fix = "cut the episode before its padding; these steps never happened"
            problem = "ends with steps in which every value is 0, like padding to a fixed length"
            yield Finding("warning", "padding", "episode", problem, fix, self._padding.count, self._padding.first)
        if 0 < self._zeros.count <= few:
            fix = "repair or remove these steps, if the sensors did not really read 0"
            problem = "is 0 in every number, unlike other steps"
            yield Finding("warning", "all zeros", "observations", problem, fix, self._zeros.count, self._zeros.first)


class Codes:
    """Finds numbers such as -999 that stand for a missing value."""

    def __init__(self) -> None:
        self._low = np.zeros(0)
        self._high = np.zeros(0)
        self._counts = np.zeros((0, 0))
        self._places: dict[tuple[int, int], _Places] = {}

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Look at the values of episodes; see `StepCheck`."""
        values = _float_columns(rows)
        if values is None:
            return
        if not len(self._low):
            self._low = np.full(values.shape[1], np.inf)
            self._high = np.full(values.shape[1], -np.inf)
        if len(self._low) != values.shape[1]:
            return  # refused elsewhere
        # Nearly all values are too small to be a code.
        is_code = np.abs(values) >= np.abs(CODES).min()
        if is_code.any():
            is_code[is_code] = np.isin(values[is_code].astype(np.float32), CODES.astype(np.float32))
        if not is_code.any():
            self._low = np.fmin(self._low, values.min(axis=0))
            self._high = np.fmax(self._high, values.max(axis=0))
            return
        others = np.where(is_code, np.nan, values)
        self._low = np.fmin(self._low, np.fmin.reduce(others, axis=0))
        self._high = np.fmax(self._high, np.fmax.reduce(others, axis=0))
        for feature in np.flatnonzero(is_code.any(axis=0)):
            found = np.flatnonzero(is_code[:, feature])
            for code in np.unique(values[found, feature]):
                index = int(np.flatnonzero(CODES.astype(np.float32) == np.float32(code))[0])
                places = self._places.setdefault((int(feature), index), _Places())
                places.add(episode, offsets, found[values[found, feature] == code])

    def join(self, later: Codes, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        if not len(self._low):
            self._low = np.full(len(later._low), np.inf)
            self._high = np.full(len(later._low), -np.inf)
        if len(self._low) != len(later._low):
            return
        self._low = np.fmin(self._low, later._low)
        self._high = np.fmax(self._high, later._high)
        for key, places in later._places.items():
            self._places.setdefault(key, _Places()).join(places, first_episode)

    def findings(self) -> Iterator[Finding]:
        """Yield a warning about codes far away from all other values of their feature."""
        positions: list[dict[str, int]] = []
        count = 0
        shown = 0.0
        for (feature, index), places in sorted(self._places.items()):
            low, high, code = self._low[feature], self._high[feature], CODES[index]
            distance = max(low - code, code - high)
            if places.count >= _FEWEST_CODES and np.isfinite(distance) and distance > _FAR * max(high - low, 1e-9):
                shown = shown or code
                count += places.count
                positions += [{**place, "feature": feature} for place in places.first]
        if count:
            fix = "repair or remove these steps, or record whether the value is missing in a column of its own"
            problem = f"is {shown:g}, far from all other values of its feature: it seems to encode a missing value"
            yield Finding("warning", "missing code", "observations", problem, fix, count, positions[:MAX_POSITIONS])


class EqualFeatures:
    """Finds features that have the same value as another one at every step."""

    def __init__(self) -> None:
        self._width = 0
        # Features that were equal to another one so far; soon these are few, or none.
        self._left = np.zeros(0, np.int64)
        self._groups: dict[int, int] = {}  # feature -> the first one that it has always been equal to
        self._first = np.zeros(0)
        self._changes = np.zeros(0, bool)

    def add(self, episode: int, offsets: np.ndarray, rows: Trajectory, actions: np.ndarray) -> None:
        """Compare the features that were equal so far; see `StepCheck`."""
        values = _float_columns(rows)
        if values is None:
            return
        if not self._width:
            self._width = values.shape[1]
            self._left = np.arange(self._width)
            self._groups = dict.fromkeys(range(self._width), 0)
            self._first = values[0].copy()
            self._changes = np.zeros(self._width, bool)
        if len(self._left) < 2 or self._width != values.shape[1]:
            return
        groups: dict[tuple[int, bytes], int] = {}
        changed = (values[:, self._left] != self._first[self._left]).any(axis=0)
        self._changes[self._left] |= changed
        columns = np.ascontiguousarray(values[:, self._left].T)
        for feature, column in zip(self._left.tolist(), columns, strict=True):
            key = (self._groups[feature], column.tobytes())
            self._groups[feature] = groups.setdefault(key, feature)
        self._leave_out_single_ones()

    def _leave_out_single_ones(self) -> None:
        sizes = np.bincount([self._groups[feature] for feature in self._left.tolist()], minlength=self._width)
        self._left = np.array([f for f in self._left.tolist() if sizes[self._groups[f]] > 1], np.int64)

    def join(self, later: EqualFeatures, first_episode: int) -> None:
        """Take over what was seen of later episodes; see `StepCheck`."""
        if not self._width:
            vars(self).update(copy.deepcopy(vars(later)))
            return
        if len(self._left) < 2 or self._width != later._width:
            return
        # Equal in all rows are those that are equal in the earlier and in the later ones.
        groups: dict[tuple[int, int], int] = {}
        self._changes |= later._changes | (self._first != later._first)
        for feature in self._left.tolist():
            key = (self._groups[feature], later._groups[feature])
            self._groups[feature] = groups.setdefault(key, feature)
        self._leave_out_single_ones()

    def findings(self) -> Iterator[Finding]:
        """Yield a warning about features that equal an earlier one."""
        copies = [f for f in self._left.tolist() if self._groups[f] != f and self._changes[f]]
        if copies:
            positions = [{"feature": feature} for feature in copies[:MAX_POSITIONS]]
            problem = f"has the same value as feature {self._groups[copies[0]]} at every step"
            fix = "leave it out, or check whether a different column was meant"
            yield Finding("warning", "equal features", "observations", problem, fix, len(copies), positions)


def padding_begins(episode: Trajectory) -> int | None:
    """Return the first step of an episode's padding, from which on everything is 0 up to the end; None without any."""
    observations = None if np.ndim(episode.rewards) != 1 else _float_columns(episode)
    actions = np.asarray(episode.actions)
    if observations is None or not len(observations) == len(episode.rewards) == len(actions):
        return None
    if observations.shape[1] < 2 or actions.dtype.kind not in "biuf":
        return None
    empty = ~observations.any(axis=1) & (episode.rewards == 0) & ~actions.reshape(len(actions), -1).any(axis=1)
    return _tail_begins(empty)


def _tail_begins(empty: np.ndarray) -> int | None:
    """Return where the empty steps at the end begin, if there are several and not all are; else None."""
    kept = np.flatnonzero(~empty)
    return int(kept[-1]) + 1 if kept.size and len(empty) - kept[-1] > 2 else None


def _float_columns(rows: Trajectory) -> np.ndarray | None:
    """Return all floating-point numbers of observations as (N, D); None if there are none, or very many."""
    arrays = [a.reshape(len(a), -1) for a in leaves(rows.observations, "").values() if a.dtype.kind == "f" and a.size]
    width = sum(array.shape[1] for array in arrays)
    if not 0 < width <= _WIDEST:
        return None
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
