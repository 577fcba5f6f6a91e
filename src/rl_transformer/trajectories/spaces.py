"""Describe observation and action spaces as plain data, which is stored with datasets and policies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested
from rl_transformer.trajectories.images import image_layout, was_image_before
from rl_transformer.trajectories.mixed_rows import Streams, find_streams, pack_rows
from rl_transformer.trajectories.space_values import box_bounds, compact_bound, flatten, json_value, number_dtype

# A discrete part with more values than this makes a space wide: the rows of a dataset then hold the part's index instead
# of its one-hot vector, which would take megabytes per hundred steps.
WIDE = 1024
# Fields that each kind without parts uses; `to_dict` writes these only.
_FIELDS = {
    "box": ("shape", "dtype", "low", "high"),
    "discrete": ("n", "start"),
    "multi_discrete": ("shape", "nvec", "starts"),
    "multi_binary": ("shape",),
}
KINDS = (*_FIELDS, "dict", "tuple")


@dataclass(frozen=True)
class Space:
    """Describes one space; ``kind`` decides which of the other fields it uses."""

    kind: str
    """box, discrete, multi_discrete, multi_binary, dict or tuple; other kinds, such as text, can only be left out."""
    shape: tuple[int, ...] = ()
    """Shape of one value of a box, multi_discrete or multi_binary space."""
    dtype: str = "float32"
    """NumPy dtype of a box."""
    low: tuple[float, ...] = ()
    """Lower bounds of a box, flattened; a single number holds for all elements."""
    high: tuple[float, ...] = ()
    """Upper bounds of a box, flattened; a single number holds for all elements."""
    n: int = 0
    """Number of values of a discrete space."""
    start: int = 0
    """Smallest value of a discrete space."""
    nvec: tuple[int, ...] = ()
    """Number of values of each part of a multi_discrete space, flattened."""
    starts: tuple[int, ...] = ()
    """Smallest value of each part of a multi_discrete space, flattened."""
    parts: tuple[tuple[str, Space], ...] = field(default=())
    """Named parts of a dict or tuple, in order; the indices of a tuple's parts are their names."""
    ignored: tuple[str, ...] = ()
    """Further parts that recorded and live values may have, and that are left out."""
    is_flattened: bool = False
    """True for an image that is taken as a vector, as the first version of stores and policies took some layouts."""

    def __str__(self) -> str:
        """Return a short text, such as "box (11,)" or "3 x 2 discrete"."""
        if self.kind == "discrete":
            return f"{self.n} discrete" + (f" from {self.start}" if self.start else "")
        if self.kind == "multi_discrete":
            return f"{' x '.join(map(str, self.nvec))} discrete"
        if self.parts:
            left_out = f", without {', '.join(self.ignored)}" if self.ignored else ""
            return f"{self.kind} of " + ", ".join(f"{name}: {part}" for name, part in self.parts) + left_out
        return f"{'image' if self.is_image else self.kind} {self.shape}"

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) if a value is an image, else None; see `image_layout`."""
        # A dict or tuple with one part, such as {"pixels": ...}, is what that part is.
        if len(self.parts) == 1:
            return self.parts[0][1].image_shape
        is_pixels = self.kind == "box" and self.dtype == "uint8" and not self.is_flattened
        return image_layout(self.shape) if is_pixels else None

    @property
    def is_image(self) -> bool:
        """True if a value is an image."""
        return self.image_shape is not None

    @property
    def has_image(self) -> bool:
        """True for an image, or a dict or tuple that contains one."""
        return self.is_image or any(part.has_image for _, part in self.parts)

    @cached_property  # asked for at every action
    def streams(self) -> Streams | None:
        """Pictures and numbers of a dict or tuple that has a picture beside other parts; None for any other space."""
        return find_streams(self)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """Shape of one value after `flatten`."""
        return (self.streams.row_bytes,) if self.streams else self.image_shape or (self.flat_dim,)

    @property
    def flat_dtype(self) -> np.dtype:
        """Dtype of values after `flatten`: uint8 where there is an image, float32 for vectors."""
        return np.dtype(np.uint8 if self.has_image else np.float32)

    @property
    def is_wide(self) -> bool:
        """True if rows of data hold indices instead of one-hot vectors; see `wide_rows`."""
        largest = max(self.nvec, default=0) if self.kind == "multi_discrete" else self.n
        return largest > WIDE or any(part.is_wide for _, part in self.parts)

    @property
    def flat_dim(self) -> int:
        """Length of one value flattened to a vector, with one-hot encoding of discrete values."""
        if self.kind == "discrete":
            return self.n
        if self.kind == "multi_discrete":
            return sum(self.nvec)
        if self.kind in ("dict", "tuple"):
            return sum(part.flat_dim for _, part in self.parts)
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of a box, as float32 arrays of its flattened size; infinite where it has none.

        Bounds at the limits of their dtype, and bounds whose distance float32 cannot hold, are no bounds.
        """
        return box_bounds(self.low, self.high, math.prod(self.shape), self.dtype)

    def flatten(self, values: Nested, *, where: object = "observation") -> np.ndarray:
        """Convert values with one leading axis to float32 vectors (T, flat_dim), images to uint8 (T, C, H, W).

        Pictures beside other parts become rows of bytes, see `mixed_rows`.

        A discrete value becomes a one-hot vector, a multi-discrete one the concatenation of one-hot parts. The parts of
        a dict or tuple are concatenated in the order of the space.

        Raises:
            RLTransformerError: The values do not have the form of this space.
        """
        return flatten(self, values, where) if self.streams is None else pack_rows(self, values, where)

    def observed_like(self, other: Space) -> Space:
        """Return this space as a policy with the space ``other`` of the same observations takes it.

        Parts that ``other`` ignores are left out, and images that it flattens are flattened.
        """
        if not self.parts:
            return replace(self, is_flattened=other.is_flattened and other.shape == self.shape)
        inner = dict(other.parts)
        dropped = tuple(name for name, _ in self.parts if name in other.ignored)
        kept = tuple(
            (name, part.observed_like(inner[name]) if name in inner else part)
            for name, part in self.parts
            if name not in dropped
        )
        return replace(self, parts=kept, ignored=(*self.ignored, *dropped))

    @property
    def is_continuous(self) -> bool:
        """True if actions of this space are vectors of real numbers."""
        return self.kind == "box"

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one stored action: (A,) for a box, () for discrete, (P,) for P discrete parts."""
        if self.kind == "discrete":
            return ()
        return (len(self.nvec),) if self.kind == "multi_discrete" else (self.flat_dim,)

    @property
    def action_dtype(self) -> np.dtype:
        """Dtype of stored actions: float32 vectors, or int64 indices counted from 0."""
        return np.dtype(np.float32 if self.is_continuous else np.int64)

    def encode_actions(self, actions: ArrayLike) -> np.ndarray:
        """Convert recorded actions (T, ...) to stored ones: (T, *action_shape), discrete values counted from 0.

        Values outside a discrete space are converted, too, so that the caller can report their positions.

        Raises:
            RLTransformerError: The actions do not have the shape of this space.
        """
        if self.is_continuous:
            return self.flatten(actions, where="actions")
        array = np.asarray(actions)
        size = math.prod(self.action_shape)
        # Sizes instead of shapes: discrete actions are often recorded as (T, 1).
        if array.size != len(array) * size:
            expected = "one number" if self.kind == "discrete" else f"{size} numbers"
            raise RLTransformerError(
                f"has shape {array.shape}, and an action of this space is {expected}",
                where="actions",
                fix=f"record {expected} per step",
            )
        with np.errstate(invalid="ignore"):  # NaN has no integer value; `outside` reports it
            return array.reshape(len(array), *self.action_shape).astype(np.int64) - self.first_values

    def decode_actions(self, stored: np.ndarray) -> np.ndarray:
        """Convert stored actions (T, *action_shape) back to values of the space (T, *shape)."""
        if self.kind == "box":
            return stored.reshape(len(stored), *self.shape)
        values = stored + self.first_values
        return values.reshape(len(stored), *self.shape) if self.kind == "multi_discrete" else values

    def outside(self, actions: np.ndarray, *, slack: float = 0.0) -> np.ndarray:
        """Return a boolean array that is True where recorded actions (T, ...) lie outside this space.

        Args:
            actions: Actions as recorded, of any numeric dtype.
            slack: Tolerance for a box, as a fraction of the width of its bounds.
        """
        with np.errstate(invalid="ignore"):
            if self.is_continuous:
                low, high = self.bounds
                # NaN compares as False and is therefore inside; it is reported as a value that is not finite.
                margin = np.where(np.isfinite(high - low), (high - low) * slack, 0)
                return (actions < low - margin) | (actions > high + margin)
            values = np.asarray(actions).reshape(len(actions), *self.action_shape)
            sizes = self.n if self.kind == "discrete" else np.asarray(self.nvec)
            return (values < self.first_values) | (values >= self.first_values + sizes) | (values != np.floor(values))

    @property
    def first_values(self) -> Any:
        """Smallest value of a discrete space, or of each part of a multi_discrete one."""
        return self.start if self.kind == "discrete" else np.asarray(self.starts, np.int64)

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; infinite bounds become the strings "inf" and "-inf"."""
        if self.kind not in _FIELDS:
            further = {"ignored": list(self.ignored)} if self.ignored else {}
            return {"kind": self.kind, "parts": [[name, part.to_dict()] for name, part in self.parts], **further}
        values = {name: getattr(self, name) for name in _FIELDS[self.kind]}
        # Files of the first version do not say so, and hold vectors.
        further = {"image": True} if self.is_image and not was_image_before(self.shape) else {}
        return {"kind": self.kind, **{name: json_value(value) for name, value in values.items()}, **further}

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "space") -> Space:
        """Return the space that `to_dict` was called on.

        Raises:
            RLTransformerError: The values do not describe a space; ``where`` names the file.
        """
        # The values come from files that others wrote: every number is converted, and nothing else is used.
        try:
            kind = values["kind"]
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r}")
            if kind == "discrete":
                return cls("discrete", n=int(values["n"]), start=int(values["start"]))
            if kind in ("dict", "tuple"):
                parts = tuple((str(name), cls.from_dict(part, where=where)) for name, part in values["parts"])
                return cls(kind, parts=parts, ignored=tuple(str(name) for name in values.get("ignored", ())))
            shape = tuple(int(size) for size in values["shape"])
            if kind == "multi_binary":
                return cls(kind, shape)
            if kind == "multi_discrete":
                return cls.multi_discrete(values["nvec"], values["starts"], shape)
            low, high = (tuple(float(v) for v in values[side]) for side in ("low", "high"))
            if not {len(low), len(high)} <= {1, math.prod(shape)}:
                raise ValueError(f"{len(low)} and {len(high)} bounds for {math.prod(shape)} numbers")
            is_flattened = values.get("image") is not True and not was_image_before(shape)
            space = cls("box", shape, number_dtype(values["dtype"]), low, high)
            return replace(space, is_flattened=is_flattened and space.is_image)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise RLTransformerError(
                f"does not describe a space: {error}", where=where, fix="write the file again"
            ) from None

    @classmethod
    def box(
        cls, shape: tuple[int, ...], low: ArrayLike = -math.inf, high: ArrayLike = math.inf, dtype: str = "float32"
    ) -> Space:
        """Return a box of arrays with ``shape``; bounds are numbers or arrays of that shape."""
        return cls("box", tuple(shape), dtype, compact_bound(low), compact_bound(high))

    @classmethod
    def discrete(cls, n: int, start: int = 0) -> Space:
        """Return the space of the integers from ``start`` to ``start`` + ``n`` - 1."""
        return cls("discrete", n=n, start=start)

    @classmethod
    def multi_discrete(cls, nvec: ArrayLike, starts: ArrayLike = 0, shape: tuple[int, ...] | None = None) -> Space:
        """Return a space of several discrete parts: part i has nvec[i] values, counted from starts[i].

        Raises:
            ValueError: A part has no values.
        """
        sizes = np.asarray(nvec, np.int64)
        if not sizes.size or (sizes < 1).any():
            raise ValueError(f"nvec {sizes.tolist()} is not a list of positive sizes")
        first = np.broadcast_to(np.asarray(starts, np.int64).reshape(-1), sizes.size)
        return cls(
            "multi_discrete",
            shape=sizes.shape if shape is None else tuple(shape),
            nvec=tuple(sizes.reshape(-1).tolist()),
            starts=tuple(first.tolist()),
        )
