"""Handle observations that are dicts or tuples of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested

if TYPE_CHECKING:
    from rl_transformer.trajectories.spaces import Space


def stack(observations: Sequence[Nested]) -> Nested:
    """Stack observations along a new first axis, through nested dicts and tuples."""
    first = observations[0]
    if isinstance(first, dict):
        return {name: stack([o[name] for o in observations]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([o[i] for o in observations]) for i in range(len(first)))
    return np.stack([np.asarray(o) for o in observations])


def unstack(observations: Nested) -> Nested:
    """Return the first of some observations with a leading axis, through nested dicts and tuples."""
    if isinstance(observations, dict):
        return {name: unstack(part) for name, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(unstack(part) for part in observations)
    return observations[0]


def stack_steps(observations: Nested, space: Space | None, where: object) -> Nested:
    """Stack observations that are given one per step, as a sequence of dicts or tuples; return others unchanged.

    Args:
        observations: Arrays, nested dicts and tuples of arrays, or a sequence of dicts or tuples.
        space: Space of one observation; None if it is not known.
        where: The episode, for messages.

    Raises:
        RLTransformerError: The observations of different steps do not have the same parts or shapes, or they have parts
            and the space is not known.
    """
    is_sequence = isinstance(observations, list | tuple) or (
        isinstance(observations, np.ndarray) and observations.dtype.kind == "O"
    )
    if not is_sequence or not len(observations):
        return observations
    kind = "" if space is None else space.kind
    first = observations[0]
    if isinstance(observations, tuple):
        # A tuple holds the parts of a tuple space, and its first part may be a dict.
        is_one_per_step = isinstance(first, dict) and kind == "dict"
    else:
        # A list of tuples may also hold the rows of a table: only the space tells which of the two is meant.
        is_one_per_step = isinstance(first, dict) or (isinstance(first, tuple) and kind == "tuple")
    if not is_one_per_step:
        return (
            observations if isinstance(observations, tuple) or kind == "tuple" else _table(observations, space, where)
        )
    try:
        return stack(list(observations))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RLTransformerError(
            f"its steps do not have the same parts: {type(error).__name__}: {error}",
            where=f"{where}: observations",
            fix="give every step an observation of the same form",
        ) from None


def _table(observations: Nested, space: Space | None, where: object) -> np.ndarray:
    """Return observations that are given as rows of numbers as an array."""
    if space is not None:
        return as_array(observations, where=f"{where}: observations")
    try:
        table = np.asarray(observations)
    except ValueError:  # parts of different shapes
        table = None
    if table is None or (table.dtype == object and isinstance(observations[0], tuple)):
        raise RLTransformerError("observations are nested", where=where, fix="pass observation_space=")
    return table


def as_array(values: object, *, where: object, otherwise: str = "") -> np.ndarray:
    """Return values as an array; ``otherwise`` is what else may be done about values that are none.

    Raises:
        RLTransformerError: They differ in their shapes.
    """
    try:
        return np.asarray(values)
    except ValueError:
        raise RLTransformerError(
            "its rows have different shapes", where=where, fix=f"give every step values of one shape{otherwise}"
        ) from None


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
            f"has no part {name!r}",
            where=where,
            fix="record every part, and act in an environment that has the same parts",
        ) from None


def leaves(values: Nested, name: str) -> dict[str, np.ndarray]:
    """Return the arrays inside nested dicts and tuples, with names such as observations[goal]."""
    if isinstance(values, dict):
        return {k: v for key, part in values.items() for k, v in leaves(part, f"{name}[{key}]").items()}
    if isinstance(values, tuple):
        return {k: v for i, part in enumerate(values) for k, v in leaves(part, f"{name}[{i}]").items()}
    return {name: np.asarray(values)}
