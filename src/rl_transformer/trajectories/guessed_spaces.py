"""Guess the spaces of data that comes without them."""

from __future__ import annotations

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.checks import Finding
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory


def infer_observation_space(trajectories: list[Trajectory], where: object) -> Space:
    """Return the observation space that fits the first episode: images if it has some, otherwise a box without bounds.

    Raises:
        RLTransformerError: There is no episode, or observations are nested, whose order of parts cannot be guessed.
    """
    if not trajectories:
        raise RLTransformerError("holds no episode", where=where, fix="give at least one episode")
    if isinstance(trajectories[0].observations, dict | tuple):
        raise RLTransformerError("observations are nested", where=where, fix="pass observation_space=")
    first = np.asarray(trajectories[0].observations)
    image = Space.box(first.shape[1:], 0, 255, "uint8")
    # Bounds of vectors are not needed: observations are normalized by their statistics.
    return image if first.dtype == np.uint8 and image.is_image else Space.box(first.shape[1:])


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
    fix = "pass action_space="
    if all(a.dtype.kind in "iub" for a in actions):
        if all(a.ndim == 2 and a.shape[1] > 1 for a in actions):
            nvec = np.max([a.max(axis=0) for a in actions], axis=0).astype(np.int64) + 1
            problem = f"parts with {nvec.tolist()} values were counted; larger values may exist"
            guess = Finding("warning", "guessed space", "actions", problem, fix, 1)
            return Space.multi_discrete(np.maximum(nvec, 1)), [guess]
        n = int(max(a.max() for a in actions)) + 1
        guess = Finding(
            "warning", "guessed space", "actions", f"{n} actions were counted; a larger one may exist", fix, 1
        )
        return Space.discrete(max(n, 1)), [guess]
    # [-1, 1] is the convention of continuous control. Larger actions need a larger box, and a warning. NaN is reported
    # by the checks of values; here it must not become a bound.
    with np.errstate(invalid="ignore"):
        largest = max(float(np.nanmax(np.abs(a.astype(np.float64)), initial=0)) for a in actions)
    bound = 1.0 if not np.isfinite(largest) else max(1.0, largest)
    problem = f"no bounds are given; {-bound:g} ... {bound:g} is assumed"
    guess = Finding("info" if bound == 1 else "warning", "guessed space", "actions", problem, fix, 1)
    return Space.box(actions[0].shape[1:], -bound, bound), [guess]
