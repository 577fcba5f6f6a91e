"""Find recorded actions that are outside their space, or that were not legal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rl_transformer.trajectories.action_masks import illegal_steps, is_action_mask
from rl_transformer.trajectories.spaces import Space

# Fraction of the bounds' width by which an action may exceed them. Logged float32 actions at the bound may be rounded
# past it; actions in a wrong unit exceed it by far more.
BOUND_SLACK = 1e-5


class ActionDefect(NamedTuple):
    """Steps, or numbers of steps, with one kind of defect."""

    where: np.ndarray
    """(T, ...) bool."""
    kind: str
    problem: str
    fix: str


def action_defects(space: Space, actions: np.ndarray, allowed: np.ndarray | None) -> Iterator[ActionDefect]:
    """Yield the defects of one episode's actions.

    Args:
        space: The action space.
        actions: Actions as recorded, (T, *action_shape).
        allowed: The extra column ``allowed``, if there is one.
    """
    bad = space.outside(actions, slack=BOUND_SLACK)
    if space.is_continuous:
        bad &= np.isfinite(actions)  # clipping is no cure for the others, which have a finding of their own
        problem = "is outside the bounds of the action space"
        fix = "declare the true bounds, or clip the actions: append ?clip_actions=true to the URI, or clip_actions=True in Python"
        yield ActionDefect(bad, "action outside the space", problem, fix)
        return
    if space.kind == "discrete":
        problem = f"is not one of the {space.n} actions from {space.start}"
    else:
        problem = f"is not among the {list(space.nvec)} actions from {list(space.starts)}"
    fix = "record actions of the declared space" + (_with_start(space, actions) if bad.any() else "")
    yield ActionDefect(bad, "action off the space", problem, fix)
    # Policies learn from legal actions only, so that one that was not would have an infinite loss.
    if allowed is not None and is_action_mask(space, np.asarray(allowed)) and not bad.any():
        problem = "is not legal according to the mask of its step"
        fix = "repair the mask or the action, remove the step, or leave the column allowed out"
        yield ActionDefect(illegal_steps(space, actions, np.asarray(allowed)), "illegal action", problem, fix)


def _with_start(space: Space, actions: np.ndarray) -> str:
    """Return the declaration of a space of as many actions, from the smallest recorded one, if that contains them all."""
    low = actions.min(axis=0)
    sizes = space.n if space.kind == "discrete" else np.asarray(space.nvec)
    # False for NaN, too.
    if not (np.isfinite(actions).all() and (actions == np.floor(actions)).all() and (actions < low + sizes).all()):
        return ""
    start = low.astype(int).tolist()
    given = f"Discrete({space.n}" if space.kind == "discrete" else f"MultiDiscrete({list(space.nvec)}"
    return f", or declare the smallest one, action_space=gymnasium.spaces.{given}, start={start})"
