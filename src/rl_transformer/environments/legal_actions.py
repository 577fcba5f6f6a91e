"""Read the masks by which environments tell which discrete actions are legal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.spaces import Space


def legal_actions(mask: Any, space: Space, *, where: object) -> np.ndarray:
    """Return a mask as booleans (M,), True at legal values; M is the number of values, summed over the parts.

    Args:
        mask: One boolean, or 0 or 1, per value. For a multi-discrete space the parts' masks one after the other, or a
            tuple or list with one mask per part.
        space: Discrete or multi-discrete space of the actions.
        where: Name of the environment, for messages.

    Raises:
        RLTransformerError: The mask has another form, or a part has no legal value.
    """
    sizes = _sizes(space)
    lengths = f"{sizes[0]}" if len(sizes) == 1 else f"{sum(sizes)}, or one mask per part of lengths {list(sizes)}"
    fix = f"let the environment report a mask of length {lengths}, with True or 1 at the legal values"
    parts = _parts(mask, sizes)
    if parts is None:
        raise RLTransformerError(
            f"its action mask has shape {_shape(mask)}, and the actions have {lengths} values", where=where, fix=fix
        )
    joined = np.concatenate(parts)
    if joined.dtype.kind not in "biuf" or not np.isin(joined, (0, 1)).all():
        raise RLTransformerError("its action mask has values other than 0 and 1", where=where, fix=fix)
    for index, part in enumerate(parts):
        if not part.any():
            which = "every action" if len(parts) == 1 else f"every value of part {index} of the action"
            raise RLTransformerError(
                f"its action mask forbids {which}",
                where=where,
                fix="let the environment end the episode when no action is legal",
            )
    return joined.astype(bool)


def split_mask(mask: np.ndarray, space: Space) -> np.ndarray | tuple[np.ndarray, ...]:
    """Return a mask of `legal_actions` in the form that ``sample`` of gymnasium's spaces takes."""
    if space.kind == "discrete":
        return mask.astype(np.int8)
    return tuple(np.split(mask.astype(np.int8), np.cumsum(space.nvec)[:-1]))


def _sizes(space: Space) -> tuple[int, ...]:
    return (space.n,) if space.kind == "discrete" else space.nvec


def _parts(mask: Any, sizes: Sequence[int]) -> list[np.ndarray] | None:
    """Return one array per part of the action, or None if the mask has another shape."""
    try:
        # One mask per part: a tuple or list of arrays, or a two-dimensional array if the parts have equal sizes.
        if np.ndim(mask[0]) == 1:
            separate = [np.asarray(part) for part in mask]
        else:
            joined = np.asarray(mask)
            separate = np.split(joined, np.cumsum(sizes)[:-1]) if joined.shape == (sum(sizes),) else []
    except (TypeError, ValueError, IndexError, KeyError):
        return None
    return separate if [part.shape for part in separate] == [(size,) for size in sizes] else None


def _shape(mask: Any) -> object:
    """Return the shape of a mask, as far as it has one."""
    try:
        return np.shape(mask)
    except ValueError:
        return [np.shape(part) for part in mask]
