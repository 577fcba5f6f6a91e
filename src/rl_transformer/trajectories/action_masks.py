"""Masks of legal actions in data: the extra column ``allowed``, with one value per discrete action."""

from __future__ import annotations

import numpy as np

from rl_transformer.trajectories.sharded_column import Column
from rl_transformer.trajectories.spaces import Space

ALLOWED = "allowed"


def is_action_mask(space: Space, values: Column) -> bool:
    """Return True if a column (T, ...) of this name holds a mask of legal actions of a space."""
    return not space.is_continuous and values.dtype == bool and values.shape[1:] == (space.flat_dim,)


def illegal_steps(space: Space, actions: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the steps (T,) at which a recorded action was not legal.

    Args:
        space: The action space.
        actions: Recorded actions (T, ...), which are of the space.
        allowed: Masks (T, M); the parts of a multi-discrete action lie one after the other.
    """
    indices = space.encode_actions(actions).reshape(len(actions), -1)
    sizes = [space.n] if space.kind == "discrete" else list(space.nvec)
    first = np.cumsum([0, *sizes[:-1]])
    return np.asarray(~np.take_along_axis(allowed, indices + first, axis=1).all(axis=1))
