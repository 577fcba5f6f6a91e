"""Handle observations that are dicts or tuples of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested


def stack(observations: Sequence[Nested]) -> Nested:
    """Stack observations along a new first axis, through nested dicts and tuples."""
    first = observations[0]
    if isinstance(first, dict):
        return {name: stack([o[name] for o in observations]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([o[i] for o in observations]) for i in range(len(first)))
    return np.stack([np.asarray(o) for o in observations])


def select_part(values: Nested, name: str, where: object) -> Nested:
    """Return the part of a dict or tuple observation with the name ``name`` in its space.

    Raises:
        RLTransformerError: The observation has no such part.
    """
    # The parts of a tuple space are named by their index. JSON turns tuples into lists, so both are accepted.
    try:
        return values[int(name)] if isinstance(values, tuple | list) else values[name]
    except (KeyError, IndexError, ValueError, TypeError):
        raise RLTransformerError(
            f"has no part {name!r}", where=where, fix="record every part of the observation space"
        ) from None
