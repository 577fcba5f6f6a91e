"""Say what the values in the columns of a table mean, so that a row can be read without the table it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested
from rl_transformer.trajectories.spaces import Space

Value = str | int | float | bool
NUMBERS = "numbers"
"""Name of the part of observations that holds all numeric columns, where there are categories beside them."""


@dataclass(frozen=True)
class TableSpec:
    """Holds what was learned from a table's training rows: sizes, categories and actions; stored with data and policies.

    The row ``{"price": 3.5, "segment": "new"}`` becomes an observation, and an action becomes values of columns.
    """

    numbers: tuple[tuple[str, int], ...]
    """(column, how many numbers it holds), in the order of the observation."""
    categories: tuple[tuple[str, tuple[Value, ...]], ...]
    """(column, its categories); index 0 of the observation is kept for missing and for unseen ones."""
    action: tuple[tuple[str, int], ...]
    """(column, how many numbers it holds) of the action; discrete ones hold one."""
    action_values: tuple[tuple[Value, ...], ...] = ()
    """The values of each column of a discrete action, by their index; empty for continuous actions."""
    allowed: tuple[str, ...] = ()
    """Columns that tell which actions are allowed, in the order of the action's values."""
    mapping: JsonMapping | None = None
    """The mapping that the data was read with."""
    images: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(column, shape) of the pictures, uint8 with the colors last."""

    @property
    def observation_space(self) -> Space:
        """The space of observations: a vector of numbers, or a dict of it, one discrete part per category, and pictures."""
        size = sum(width for _, width in self.numbers)
        parts = [(NUMBERS, Space.box((size,)))] if size else []
        parts += [(name, Space.discrete(len(values) + 1)) for name, values in self.categories]
        parts += [(name, Space("box", shape, dtype="uint8", low=(0,), high=(255,))) for name, shape in self.images]
        return Space("dict", parts=tuple(parts)) if self.categories or self.images else Space.box((size,))

    def action_space(self, low: ArrayLike = -np.inf, high: ArrayLike = np.inf) -> Space:
        """Return the space of actions; continuous ones have bounds (A,)."""
        if not self.action_values:
            shape = (sum(width for _, width in self.action),)
            return Space.box(shape, low, high)
        sizes = [len(values) for values in self.action_values]
        starts = [self._first_value(values) for values in self.action_values]
        return Space.discrete(sizes[0], starts[0]) if len(sizes) == 1 else Space.multi_discrete(sizes, starts)

    @staticmethod
    def _first_value(values: tuple[Value, ...]) -> int:
        """Return the first of consecutive integers, which then stand for themselves; 0 for any other values."""
        first = values[0]
        is_range = type(first) is int and list(values) == list(range(first, first + len(values)))
        return first if is_range and isinstance(first, int) else 0

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object) -> TableSpec:
        """Return the spec that `to_dict` was called on.

        Raises:
            RLTransformerError: The values are not those of a table; ``where`` names the file.
        """
        try:
            numbers, action = (
                tuple((_text(name), _size(width)) for name, width in values[key]) for key in ("numbers", "action")
            )
            categories = tuple((_text(name), _values(found)) for name, found in values["categories"])
            mapping = values.get("mapping")
            return cls(
                numbers,
                categories,
                action,
                tuple(_values(found) for found in values["action_values"]),
                tuple(_text(name) for name in values["allowed"]),
                dict(mapping) if isinstance(mapping, Mapping) else None,
                tuple((_text(name), tuple(map(_size, shape))) for name, shape in values.get("images", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RLTransformerError(
                f"the description of the table is malformed: {error}", where=where, fix="restore the file from a copy"
            ) from None

    @cached_property
    def _indices(self) -> dict[str, dict[Value, int]]:
        """Index of every category by column."""
        return {name: {value: index + 1 for index, value in enumerate(values)} for name, values in self.categories}

    def observation(self, row: Mapping[str, object]) -> Nested:
        """Return the observation in a row, as a session takes it; further columns are ignored.

        Args:
            row: Values by column, as they stand in the log; an unknown category is index 0, a missing one as well.

        Raises:
            RLTransformerError: A numeric column is missing or holds no number.
        """
        numbers = [np.atleast_1d(_number(row, name, width)) for name, width in self.numbers]
        vector = np.concatenate(numbers).astype(np.float32) if numbers else np.zeros(0, np.float32)
        if not self.categories and not self.images:
            return vector
        parts: dict[str, Nested] = {NUMBERS: vector} if numbers else {}
        for name, _ in self.categories:
            if name not in row:
                raise _missing(row, name, "a missing category is None")
            value = _plain(row[name])
            parts[name] = np.int64(0 if value is None else self._indices[name].get(value, 0))
        for name, shape in self.images:
            parts[name] = _picture(row, name, shape)
        return parts

    def allowed_actions(self, row: Mapping[str, object]) -> np.ndarray | None:
        """Return the mask (M,) of allowed actions in a row; None if the table has no such columns.

        Raises:
            RLTransformerError: A column is missing, or is neither true nor false.
        """
        if not self.allowed:
            return None
        for name in self.allowed:
            if name not in row:
                raise _missing(row, name, "give every column of allowed actions")
            if _plain(row[name]) not in (0, 1):
                raise RLTransformerError(f"is {row[name]!r:.100}", where=f"row: {name}", fix="give true or false")
        return np.array([bool(row[name]) for name in self.allowed])

    def action_row(self, action: Nested, space: Space) -> dict[str, Value | list[float]]:
        """Return an action of a policy as values by column, as the log has them."""
        flat = np.asarray(action).reshape(-1)
        if self.action_values:
            indices = (flat - space.first_values).reshape(-1).astype(int)
            pairs = zip(self.action, self.action_values, indices, strict=True)
            return {name: values[index] for (name, _), values, index in pairs}
        borders = np.cumsum([0, *(width for _, width in self.action)])
        parts = {name: flat[a:b].tolist() for (name, _), (a, b) in zip(self.action, pairwise(borders), strict=True)}
        return {name: part[0] if len(part) == 1 else part for name, part in parts.items()}


def _number(row: Mapping[str, object], name: str, width: int) -> np.ndarray:
    """Return the number, or the ``width`` numbers, in a column of a row."""
    if name not in row:
        raise _missing(row, name, "give every column that the policy sees")
    value: Any = row[name]
    if hasattr(value, "total_seconds"):
        value = value.total_seconds()  # durations are seconds in the training data, too
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.zeros(0)
    # The policy sees float32.
    if numbers.size != width or not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        expected = "one number" if width == 1 else f"{width} numbers"
        raise RLTransformerError(
            f"is {row[name]!r:.100}, not {expected}", where=f"row: {name}", fix=f"give {expected}, finite"
        )
    return numbers.reshape(-1)


def _picture(row: Mapping[str, object], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the picture in a column of a row."""
    if name not in row:
        raise _missing(row, name, "give every column that the policy sees")
    picture = np.asarray(row[name])
    if picture.dtype != np.uint8 or picture.shape != shape:
        problem = f"is {picture.dtype} of shape {picture.shape}, not uint8 of shape {shape}"
        raise RLTransformerError(problem, where=f"row: {name}", fix="give the frame as it was recorded")
    return picture


def _missing(row: Mapping[str, object], name: str, fix: str) -> RLTransformerError:
    columns = ", ".join(map(str, list(row)[:40])) or "nothing"
    return RLTransformerError(f"has no {name!r}; it has {columns}", where="row", fix=fix)


def _plain(value: object) -> Value | None:
    """Return a value of a row as a plain one: NumPy's numbers are Python's, NaN is missing."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.floating) and value.itemsize < 8:
        plain = float(str(value))  # 0.1 and not 0.10000000149, as in the training data
    if plain is None or plain != plain:
        return None
    return plain if isinstance(plain, str | int | float | bool) else str(plain)


def _values(values: object) -> tuple[Value, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str | int | float | bool) for value in values):
        raise TypeError("categories and actions are lists of texts or numbers")
    return tuple(values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("names of columns are texts")
    return value


def _size(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 1_000_000:
        raise ValueError(f"{value!r} is not a count of numbers")
    return value
