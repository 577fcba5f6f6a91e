"""Read the masks of legal actions that a caller passes to `act`.

Shapes: M length of a legal-action mask; *sessions is the axis of the sessions that act now, or nothing for a single one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.heads import ActionHead
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.shapes import Bool

_WHERE = "act: allowed"


def legal_action_mask(
    allowed: ArrayLike | tuple[ArrayLike, ...] | None, sessions: tuple[int, ...], spec: PolicySpec, head: ActionHead
) -> Bool[np.ndarray, "*sessions M"] | None:
    """Return the mask of legal actions, or None if every action is legal.

    Args:
        allowed: As the caller passed it: True (or 1) at legal actions, and False (or 0) at all others.
        sessions: (R,) for a batch of R sessions, () for a single one.
        spec: The policy's.
        head: The policy's.

    Raises:
        RLTransformerError: The actions take no mask, or the mask has a wrong shape, holds something else than zeros and
            ones, or forbids every action.
    """
    if allowed is None:
        return None
    if head.num_allowed == 0:
        kind = "continuous actions" if spec.data.action_space.is_continuous else "the actions of this policy's head"
        raise RLTransformerError(f"{kind} have no mask of legal actions", where=_WHERE, fix="leave allowed out")
    mask = _join_parts(allowed, spec.model.action_parts)
    expected = (*sessions, head.num_allowed)
    if mask.shape != expected:
        per_part = _per_part(spec.model.action_parts)
        raise RLTransformerError(
            f"the mask has shape {mask.shape}", where=_WHERE, fix=f"pass booleans of shape {expected}{per_part}"
        )
    # A plain discrete action is a single part. Every part needs a legal value, or its distribution would be empty.
    sizes = spec.model.action_parts or (head.num_allowed,)
    ends = np.cumsum(sizes)
    if not all(mask[..., end - size : end].any(axis=-1).all() for end, size in zip(ends, sizes, strict=True)):
        raise RLTransformerError(
            "the mask forbids every action",
            where=_WHERE,
            fix="pass at least one legal action per part, or end the episode where nothing is legal",
        )
    return mask


def _join_parts(allowed: ArrayLike | tuple[ArrayLike, ...], parts: Sequence[int]) -> Bool[np.ndarray, "..."]:
    """Return a mask as one array; if the actions have ``parts``, a tuple holds one mask for each of them."""
    try:
        if not (isinstance(allowed, tuple) and parts):
            return _as_booleans(allowed)
        masks = [_as_booleans(part) for part in allowed]
        if [mask.shape[-1:] for mask in masks] != [(size,) for size in parts]:
            raise ValueError(f"the masks have the shapes {[mask.shape for mask in masks]}")
        return np.concatenate(masks, axis=-1)
    except (TypeError, ValueError) as error:  # numpy's, for lists of unequal lengths and tensors on a GPU
        raise RLTransformerError(
            f"is not an array of booleans: {error}", where=_WHERE, fix=f"pass one array{_per_part(parts)}"
        ) from None


def _as_booleans(allowed: object) -> Bool[np.ndarray, "..."]:
    """Return one mask as booleans.

    Raises:
        RLTransformerError: It holds something else than zeros and ones.
    """
    array = np.asarray(allowed)
    if array.dtype == bool:
        return array
    # Every other number would count as legal: the -inf of a mask that is added to scores, where it means the opposite,
    # as well as a probability.
    is_other = (array != 0) & (array != 1) if array.dtype.kind in "iuf" else np.ones(array.shape, dtype=bool)
    if is_other.any():
        raise RLTransformerError(
            f"the mask holds {array[is_other][0]!s}, neither True nor False",
            where=_WHERE,
            fix="pass True at legal actions and False elsewhere; for a mask that is added to scores, pass mask == 0",
        )
    return array == 1


def _per_part(parts: Sequence[int]) -> str:
    return f", or a tuple with a mask of each length in {list(parts)}" if parts else ""
