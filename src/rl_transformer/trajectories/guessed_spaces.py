"""Guess the spaces of data that comes without them."""

from __future__ import annotations

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.findings import GUESSED_SPACE, Finding
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory

# Discrete actions beyond this number are more likely numbers or names.
_MOST_ACTIONS = 1_000_000


def infer_observation_space(trajectories: list[Trajectory], where: object) -> tuple[Space, list[Finding]]:
    """Return the observation space that fits the first episode: images if it has some, otherwise a box without bounds.

    Single integers are reported, because they may be names of states, whose size means nothing.

    Raises:
        RLTransformerError: There is no episode, or observations are nested, whose order of parts cannot be guessed.
    """
    if not trajectories:
        raise RLTransformerError("holds no episode", where=where, fix="give at least one episode")
    if isinstance(trajectories[0].observations, dict | tuple):
        raise RLTransformerError("observations are nested", where=where, fix="pass observation_space=")
    first = np.asarray(trajectories[0].observations)
    image = Space.box(first.shape[1:], 0, 255, "uint8")
    if first.dtype == np.uint8 and image.is_image:
        return image, []
    # Bounds of vectors are not needed: observations are normalized by their statistics.
    space = Space.box(first.shape[1:])
    if first.dtype.kind not in "iu" or space.flat_dim != 1 or not first.size:
        return space, []
    n = max(int(np.max(t.observations, initial=0)) for t in trajectories) + 1
    problem = "are integers, and are taken as numbers"
    fix = f"if they name states, pass observation_space=gymnasium.spaces.Discrete({n}), with the true number"
    return space, [Finding("info", GUESSED_SPACE, "observations", problem, fix, 1)]


def infer_action_space(trajectories: list[Trajectory], where: object) -> tuple[Space, list[Finding]]:
    """Guess the action space from the actions alone; return it with a finding that describes the guess.

    Raises:
        RLTransformerError: There are no actions, or they are not numbers.
    """
    # The data may not contain every action, so the guess can be too small. It is reported, because a policy trained
    # with it could never take the others.
    actions = [np.asarray(t.actions) for t in trajectories if np.asarray(t.actions).size]
    if not actions or any(a.dtype.kind not in "biuf" for a in actions):
        raise RLTransformerError("has no actions that are numbers", where=where, fix="record one action per step")
    if all(a.dtype.kind in "iub" for a in actions):
        return _guess_discrete(actions, where)
    return _guess_box(actions)


def _guess_discrete(actions: list[np.ndarray], where: object) -> tuple[Space, list[Finding]]:
    """Guess the space of integer actions: values from 0, or from the smallest one if it is negative."""
    if all(a.ndim == 2 and a.shape[1] > 1 for a in actions):
        low = np.min([a.min(axis=0).astype(np.int64) for a in actions], axis=0)
        high = np.max([a.max(axis=0).astype(np.int64) for a in actions], axis=0)
        starts = np.minimum(low, 0)
        nvec = high - starts + 1
        problem = f"parts with {nvec.tolist()} values from {starts.tolist()} were counted; other values may exist"
        space = Space.multi_discrete(nvec, starts)
        counts = (high - low + 1).tolist()
        fix = f"pass action_space=gymnasium.spaces.MultiDiscrete({counts}, start={low.tolist()})"
    else:
        smallest = min(int(a.min()) for a in actions)
        start = min(0, smallest)  # actions are usually counted from 0, and the first ones may just not occur
        n = max(int(a.max()) for a in actions) - start + 1
        if n > _MOST_ACTIONS:
            raise RLTransformerError(
                f"the actions are integers from {start} to {start + n - 1}: a policy would have an output for each",
                where=where,
                fix="if they are numbers, pass action_space=gymnasium.spaces.Box(low, high, dtype=np.int64); if they are "
                "names, count the different ones from 0",
            )
        problem = f"{n} actions from {start} were counted; other ones may exist"
        space = Space.discrete(n, start)
        fix = f"pass action_space=gymnasium.spaces.Discrete({n + start - smallest}, start={smallest})"
    return space, [Finding("warning", GUESSED_SPACE, "actions", problem, f"{fix}, with the true numbers", 1)]


def guessed_bounds(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds for continuous actions whose smallest and largest values (A,) are known."""
    # [-1, 1] is the convention of continuous control. A dimension with larger actions of both signs gets bounds around
    # 0; one with a single sign, such as a set-point from 16 to 24, the range that was seen.
    largest = np.maximum(np.abs(low), np.abs(high))
    is_small = largest <= 1
    has_both_signs = (low < 0) & (high > 0)
    bounds_low = np.where(is_small, -1.0, np.where(has_both_signs, -largest, low))
    bounds_high = np.where(is_small, 1.0, np.where(has_both_signs, largest, high))
    return bounds_low, bounds_high


def _guess_box(actions: list[np.ndarray]) -> tuple[Space, list[Finding]]:
    """Guess the bounds of actions that are not integers, for each dimension on its own."""
    shape = actions[0].shape[1:]
    values = [a.astype(np.float64).reshape(len(a), -1) for a in actions if a.shape[1:] == shape]
    # NaN and infinite actions are reported by the checks of values; here they must not become a bound.
    finite = [np.where(np.isfinite(v), v, np.nan) for v in values]
    low = np.fmin.reduce([np.fmin.reduce(v, axis=0) for v in finite])
    high = np.fmax.reduce([np.fmax.reduce(v, axis=0) for v in finite])
    low = np.where(np.isnan(low), 0.0, low)
    high = np.where(np.isnan(high), 0.0, high)
    is_small = np.maximum(np.abs(low), np.abs(high)) <= 1
    low, high = guessed_bounds(low, high)
    bounds = [f"{a:g} ... {b:g}" for a, b in zip(low, high, strict=True)]
    distinct = list(dict.fromkeys(bounds)) if is_small.all() else bounds
    text = ", ".join(distinct[:8]) + (" ..." if len(distinct) > 8 else "")
    problem = f"no bounds are given; {text} {'are' if len(distinct) > 1 else 'is'} assumed"
    fix = "pass action_space=gymnasium.spaces.Box(low, high) with the true bounds"
    level = "info" if is_small.all() else "warning"
    if _are_whole_numbers(values):
        # At the bounds of a continuous action, -1 and 1, whole numbers are usual.
        level = "info" if is_small.all() and _has_negative(values) else "warning"
        first = np.fmin.reduce([np.fmin.reduce(v, axis=0) for v in values]).astype(int).tolist()
        sizes = (np.fmax.reduce([np.fmax.reduce(v, axis=0) for v in values]) - first + 1).astype(int).tolist()
        declared = (
            f"Discrete({sizes[0]}, start={first[0]})" if len(sizes) == 1 else f"MultiDiscrete({sizes}, start={first})"
        )
        problem = f"are whole numbers stored as floats, and are taken as continuous; {text} is assumed"
        fix = f"if they are discrete, record integers, actions.astype(int), or pass action_space=gymnasium.spaces.{declared}"
    space = Space.box(shape, low.reshape(shape), high.reshape(shape))
    return space, [Finding(level, GUESSED_SPACE, "actions", problem, fix, 1)]


def _are_whole_numbers(values: list[np.ndarray]) -> bool:
    """Return True if actions (T, A) seem to be discrete: whole numbers, of which there are more than one and few."""
    seen = np.unique(np.concatenate(values))
    return 1 < len(seen) <= 1000 and bool((seen == np.floor(seen)).all())


def _has_negative(values: list[np.ndarray]) -> bool:
    return any((v < 0).any() for v in values)
