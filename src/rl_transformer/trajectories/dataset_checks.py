"""Checks that need the whole dataset: each sees all of it once and keeps a few numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np

from rl_transformer.trajectories.consecutive_ends import ConsecutiveEnds
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.images import SMALLEST_IMAGE, image_axes
from rl_transformer.trajectories.nested import leaves
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory

# The numbers below are ours; data of common benchmarks stays well on the right side of each.
# Share of an action's bounds below which the bounds are probably not those of the recorded actions.
_SMALL_SHARE = 0.01
# Rounding error, as a share of a feature's range, above which float32 loses too much of it.
_LARGE_ERROR = 1e-3
# Below this share of its magnitude, the range of a float64 feature is rounding noise.
_NOISE = 1e-14
# Steps above which the timestep table, with a row per step of the longest episode, is large.
_LONG_EPISODE = 50_000
# Sides of small uint8 arrays that may be pictures, and that are rather pictures than the map of a grid world.
_SMALLEST_PICTURE = 8
_SMALL_PICTURE = 28
# Maps of grid worlds number their objects and colors with smaller values; pictures have larger ones.
_LARGEST_CODE = 31

_FROM_FLOAT = "(255 * pictures).round().astype(np.uint8)"


class RowsCheck(Protocol):
    """A check of all rows, to which it makes no difference where episodes begin and end."""

    def add(self, trajectory: Trajectory, actions: np.ndarray) -> None:
        """Look at the next rows, of one or of many episodes; ``actions`` are as recorded, (T, *action_shape)."""
        ...

    def join(self, later: Self) -> None:
        """Take over what another check has seen in the rows that follow."""
        ...

    def findings(self) -> Iterator[Finding]:
        """Yield what was found in all rows so far."""
        ...


class EpisodesCheck(Protocol):
    """A check of the lengths and ends of all episodes."""

    def add(self, length: int, terminated: bool, truncated: bool) -> None:
        """Look at the next episode."""
        ...

    def findings(self) -> Iterator[Finding]:
        """Yield what was found in all episodes so far."""
        ...


def rows_checks(spec: DataSpec) -> list[RowsCheck]:
    """Return new checks for the rows of data with these spaces."""
    return [ActionRange(spec), Precision(spec), Rewards(), Pictures(spec)]


def episodes_checks() -> list[EpisodesCheck]:
    """Return new checks for the lengths and ends of episodes."""
    return [ConsecutiveEnds(), Lengths()]


class ActionRange:
    """Compares the range of continuous actions with their bounds."""

    def __init__(self, spec: DataSpec) -> None:
        self._is_continuous = spec.action_space.is_continuous
        self._bounds = spec.action_space.bounds if self._is_continuous else (np.zeros(0), np.zeros(0))
        self._low = np.inf
        self._high = -np.inf

    def add(self, trajectory: Trajectory, actions: np.ndarray) -> None:
        """Update the smallest and largest action of each dimension."""
        if self._is_continuous:
            self._low = np.fmin(self._low, actions.min(axis=0))
            self._high = np.fmax(self._high, actions.max(axis=0))

    def join(self, later: Self) -> None:
        """Take over the range of later rows."""
        self._low = np.fmin(self._low, later._low)
        self._high = np.fmax(self._high, later._high)

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for dimensions that use a tiny share of their bounds."""
        low, high = self._bounds
        with np.errstate(invalid="ignore", over="ignore"):
            share = (np.float64(self._high) - self._low) / (high.astype(np.float64) - low)
        # A dimension that never changes is not a matter of its bounds.
        small = np.flatnonzero((share > 0) & (share < _SMALL_SHARE) & np.isfinite(high) & np.isfinite(low))
        if small.size:
            first = int(small[0])
            problem = f"uses {share[first]:.2g} of its bounds {low[first]:g} ... {high[first]:g}"
            fix = "declare the true bounds of the actions, check their unit, or train with model.action_tanh false"
            positions = [{"feature": int(i)} for i in small]
            yield Finding("warning", "tiny actions", "actions", problem, fix, small.size, positions)


class Precision:
    """Finds features whose values differ too little, compared with their magnitude, for float32."""

    def __init__(self, spec: DataSpec) -> None:
        self._has_continuous_actions = spec.action_space.is_continuous
        self._seen: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, trajectory: Trajectory, actions: np.ndarray) -> None:
        """Update range and rounding error of every feature that is recorded with more than 24 bits."""
        arrays = leaves(trajectory.observations, "observations")
        if self._has_continuous_actions:
            arrays["actions"] = np.asarray(trajectory.actions)
        for name, array in arrays.items():
            if array.dtype.itemsize < 4 or array.dtype == np.float32:
                continue
            exact = array.reshape(len(array), -1).astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                error = np.abs(exact - exact.astype(np.float32)).max(axis=0)
            self._widen(name, exact.min(axis=0), exact.max(axis=0), error)

    def join(self, later: Self) -> None:
        """Take over ranges and rounding errors of later rows."""
        for name, seen in later._seen.items():
            self._widen(name, *seen)

    def _widen(self, name: str, low: np.ndarray, high: np.ndarray, error: np.ndarray) -> None:
        before = self._seen.get(name, (low, high, error))
        self._seen[name] = (np.fmin(before[0], low), np.fmax(before[1], high), np.fmax(before[2], error))

    def findings(self) -> Iterator[Finding]:
        """Yield a warning for every array with such features."""
        for name, (low, high, error) in self._seen.items():
            extent = high - low
            magnitude = np.maximum(np.abs(low), np.abs(high))
            lost = np.flatnonzero((error > _LARGE_ERROR * extent) & (extent > _NOISE * magnitude))
            if lost.size:
                first = int(lost[0])
                problem = (
                    f"has values from {low[first]:.12g} to {high[first]:.12g}, which float32, in which data is stored "
                    f"and policies act, cannot tell apart: they are rounded by up to {error[first]:.2g}"
                )
                fix = (
                    "subtract a fixed number near them, in the data and in the environment, for example the start of "
                    "the recording from a time; or leave the feature out"
                )
                positions = [{"feature": int(i)} for i in lost]
                yield Finding("warning", "precision", name, problem, fix, lost.size, positions)


class Rewards:
    """Finds data without rewards."""

    def __init__(self) -> None:
        self._is_zero = True
        self._num_episodes = 0

    def add(self, trajectory: Trajectory, actions: np.ndarray) -> None:
        """Look for a reward that is not 0."""
        self._is_zero = self._is_zero and not trajectory.rewards.any()
        self._num_episodes += 1

    def join(self, later: Self) -> None:
        """Take over whether later rewards are 0."""
        self._is_zero = self._is_zero and later._is_zero
        self._num_episodes += later._num_episodes

    def findings(self) -> Iterator[Finding]:
        """Yield a warning if every reward is 0."""
        if self._is_zero and self._num_episodes:
            problem = "are all 0, or were not recorded: every return is 0, so a different target return has no meaning"
            fix = "train behavior cloning (model.conditions []), or record the rewards"
            yield Finding("warning", "no rewards", "rewards", problem, fix, 1)


class Lengths:
    """Finds episodes for which the timestep table becomes large."""

    def __init__(self) -> None:
        self._longest = 0

    def add(self, length: int, terminated: bool, truncated: bool) -> None:
        """Update the length of the longest episode."""
        self._longest = max(self._longest, length)

    def findings(self) -> Iterator[Finding]:
        """Yield a warning about a very long episode."""
        if self._longest > _LONG_EPISODE:
            megabytes = self._longest * 128 * 4 / 1e6
            problem = (
                f"has up to {self._longest} steps: the timestep table has a row for each, {megabytes:.0f} MB at a "
                "hidden_size of 128, and as much again for its gradient and twice that for the optimizer"
            )
            fix = "set model.max_ep_len, for example to 4096 (later steps share the last row), or cut the recording"
            yield Finding("warning", "long episode", "episode", problem, fix, 1)


class Pictures:
    """Finds arrays that look like pictures and are taken as vectors, or whose axes may be meant in another order."""

    def __init__(self, spec: DataSpec) -> None:
        self._boxes = dict(_boxes(spec.observation_space, "observations"))
        # Values decide whether arrays without bounds look like pixels; only candidates are looked at.
        self._candidates = [
            name for name, box in self._boxes.items() if not box.is_image and image_axes(box.shape, _SMALLEST_PICTURE)
        ]
        self._low = dict.fromkeys(self._candidates, np.inf)
        self._high = dict.fromkeys(self._candidates, -np.inf)
        self._dtypes = {name: {self._boxes[name].dtype} for name in self._candidates}

    def add(self, trajectory: Trajectory, actions: np.ndarray) -> None:
        """Update the range of the values of candidates."""
        if not self._candidates:
            return
        # Rows of a store are flat, so that a part of them has no name here; its bounds then have to do.
        arrays = leaves(trajectory.observations, "observations")
        for name in self._candidates:
            if name in arrays:
                self._dtypes[name].add(str(arrays[name].dtype))
                self._low[name] = min(self._low[name], float(arrays[name].min()))
                self._high[name] = max(self._high[name], float(arrays[name].max()))

    def join(self, later: Self) -> None:
        """Take over ranges and types of later rows."""
        for name in self._candidates:
            self._dtypes[name] |= later._dtypes[name]
            self._low[name] = min(self._low[name], later._low[name])
            self._high[name] = max(self._high[name], later._high[name])

    def findings(self) -> Iterator[Finding]:
        """Yield findings about flattened and about ambiguous pictures."""
        for name, box in self._boxes.items():
            size = f"pictures of shape {box.shape}"
            if box.is_image and len(box.shape) == 3 and min(box.shape) >= SMALLEST_IMAGE:
                problem = f"are taken as {size} with channels first, {box.image_shape}; channels may be last as well"
                yield Finding("info", "ambiguous picture", name, problem, "record channels first if they are not", 1)
            if name not in self._candidates or not self._looks_like_pixels(name):
                continue
            problem = f"look like {size}, and are flattened to vectors of {box.flat_dim} numbers"
            if image_axes(box.shape) is None:
                fix = f"resize them to {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels or more, unless they are not images"
                yield Finding("info", "flattened picture", name, problem, fix, 1)
            elif box.is_flattened:
                fix = "write the store again from its source: rlt convert"
                yield Finding("warning", "flattened picture", name, problem, fix, 1)
            else:
                cast = "pictures.view(np.uint8)" if "int8" in self._dtypes[name] else _FROM_FLOAT
                fix = (
                    f"record uint8 pixels, such as {cast}, and let the environment "
                    "give them, too (gymnasium.wrappers.TransformObservation), unless they are not images"
                )
                yield Finding("warning", "flattened picture", name, problem, fix, 1)

    def _looks_like_pixels(self, name: str) -> bool:
        """Return True if values, or else bounds, are those of pixels: from 0 to 1 or to 255."""
        box = self._boxes[name]
        low = self._low[name] if np.isfinite(self._low[name]) else float(box.bounds[0].min())
        high = self._high[name] if np.isfinite(self._high[name]) else float(box.bounds[1].max())
        is_image = image_axes(box.shape) is not None
        if self._dtypes[name] & {"uint8", "int8"}:  # bytes that were read as signed ones are negative if bright
            is_small_picture = len(box.shape) > 2 and image_axes(box.shape, _SMALL_PICTURE) is not None
            return is_image or is_small_picture or max(-low, high) > _LARGEST_CODE
        return low >= 0 and 0.5 < high <= 255 and is_image


def _boxes(space: Space, name: str) -> Iterator[tuple[str, Space]]:
    """Yield (name, box) for every box in a space, with the names of `leaves`."""
    if space.kind == "box":
        yield name, space
    for part_name, part in space.parts:
        yield from _boxes(part, f"{name}[{part_name}]")
