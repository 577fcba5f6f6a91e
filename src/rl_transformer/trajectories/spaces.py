"""Describe observation and action spaces as plain data, which is stored with datasets and policies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested
from rl_transformer.trajectories.images import has_channels_last, image_layout
from rl_transformer.trajectories.nested import select_part
from rl_transformer.trajectories.space_values import compact_bound, json_value, one_hot

# Fields that each kind without parts uses; `to_dict` writes these only.
_FIELDS = {
    "box": ("shape", "dtype", "low", "high"),
    "discrete": ("n", "start"),
    "multi_discrete": ("shape", "nvec", "starts"),
    "multi_binary": ("shape",),
}
_KINDS = (*_FIELDS, "dict", "tuple")


@dataclass(frozen=True)
class Space:
    """Describes one space; ``kind`` decides which of the other fields it uses."""

    kind: str
    """box, discrete, multi_discrete, multi_binary, dict or tuple."""
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
    """Named parts of a dict or tuple, in order."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) if a value is an image, else None; see `image_layout`."""
        return image_layout(self.shape) if self.kind == "box" and self.dtype == "uint8" else None

    @property
    def is_image(self) -> bool:
        """True if a value is an image."""
        return self.image_shape is not None

    @property
    def has_image(self) -> bool:
        """True for an image, or a dict or tuple that contains one."""
        return self.is_image or any(part.has_image for _, part in self.parts)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """Shape of one value after `flatten`."""
        return self.image_shape or (self.flat_dim,)

    @property
    def _flat_dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.is_image else np.float32)

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
        """Lower and upper bounds of a box, as float32 arrays of its flattened size."""
        size = math.prod(self.shape)
        low, high = (np.broadcast_to(np.asarray(v, np.float32), size) for v in (self.low, self.high))
        return low, high

    def flatten(self, values: Nested, *, where: object = "observation") -> np.ndarray:
        """Convert values with one leading axis to float32 vectors (T, flat_dim), images to uint8 (T, C, H, W).

        A discrete value becomes a one-hot vector, a multi-discrete one the concatenation of one-hot parts. The parts of
        a dict or tuple are concatenated in the order of the space.

        Raises:
            RLTransformerError: The values do not have the form of this space.
        """
        # Rows of a store are flat already and need no copy. One-hot rows would even be rejected below, as no indices.
        if isinstance(values, np.ndarray) and (values.shape[1:], values.dtype) == (self.flat_shape, self._flat_dtype):
            return values
        if self.kind in ("dict", "tuple"):
            # A missing part raises an error by name below; an extra one would be dropped without notice.
            if isinstance(values, dict | tuple | list) and len(values) != len(self.parts):
                names = ", ".join(name for name, _ in self.parts)
                raise RLTransformerError(
                    f"has {len(values)} parts, and the space has {len(self.parts)}: {names}",
                    where=where,
                    fix="record exactly the parts of the observation space",
                )
            return np.concatenate(
                [part.flatten(select_part(values, name, where), where=f"{where}[{name}]") for name, part in self.parts],
                axis=1,
            )
        array = np.asarray(values)
        if self.kind == "discrete":
            return one_hot(self._indices(array, where=where), (self.n,))
        if self.kind == "multi_discrete":
            return one_hot(self._indices(array, where=where), self.nvec)
        if array.shape[1:] != self.shape:
            raise RLTransformerError(
                f"has shape {array.shape[1:]}, and the space has {self.shape}",
                where=where,
                fix="use the environment (and its version) that the data came from",
            )
        if not self.is_image:
            return array.astype(np.float32).reshape(len(array), -1)
        # Images stay bytes, which take a quarter of the memory; they are divided by 255 on the device.
        if array.dtype != np.uint8:
            raise RLTransformerError(
                f"is {array.dtype}, and images are uint8", where=where, fix="record bytes from 0 to 255"
            )
        return (
            np.moveaxis(array, -1, 1) if has_channels_last(self.shape) else array.reshape(len(array), *self.flat_shape)
        )

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
            return array.reshape(len(array), *self.action_shape).astype(np.int64) - self._starts

    def decode_actions(self, stored: np.ndarray) -> np.ndarray:
        """Convert stored actions (T, *action_shape) back to values of the space (T, *shape)."""
        if self.kind == "box":
            return stored.reshape(len(stored), *self.shape)
        values = stored + self._starts
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
            return (values < self._starts) | (values >= self._starts + sizes) | (values != np.floor(values))

    @property
    def _starts(self) -> Any:
        return self.start if self.kind == "discrete" else np.asarray(self.starts, np.int64)

    def _indices(self, array: np.ndarray, *, where: object) -> np.ndarray:
        """Return discrete observations as indices from 0: (T,), or (T, P) for P parts."""
        size = math.prod(self.action_shape)
        if array.size != len(array) * size or array.dtype.kind not in "iufb":
            expected = "one number" if self.kind == "discrete" else f"{size} numbers"
            raise RLTransformerError(
                f"has shape {array.shape[1:]} of {array.dtype}, and a value of this space is {expected}",
                where=where,
                fix=f"pass {expected} per observation",
            )
        bad = self.outside(array)
        if bad.any():
            first = array.reshape(bad.shape)[bad][0]
            allowed = f"the {self.n} values from {self.start}" if self.kind == "discrete" else f"{self.nvec} values"
            raise RLTransformerError(
                f"{first} is not one of {allowed}", where=where, fix="pass values of the declared space"
            )
        return array.reshape(len(array), *self.action_shape).astype(np.int64) - self._starts

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; infinite bounds become the strings "inf" and "-inf"."""
        if self.kind not in _FIELDS:
            return {"kind": self.kind, "parts": [[name, part.to_dict()] for name, part in self.parts]}
        values = {name: getattr(self, name) for name in _FIELDS[self.kind]}
        return {"kind": self.kind, **{name: json_value(value) for name, value in values.items()}}

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "space") -> Space:
        """Return the space that `to_dict` was called on.

        Raises:
            RLTransformerError: The values do not describe a space; ``where`` names the file.
        """
        # The values come from files that others wrote: every number is converted, and nothing else is used.
        try:
            kind = values["kind"]
            if kind not in _KINDS:
                raise ValueError(f"unknown kind {kind!r}")
            if kind == "discrete":
                return cls("discrete", n=int(values["n"]), start=int(values["start"]))
            if kind in ("dict", "tuple"):
                return cls(
                    kind, parts=tuple((str(name), cls.from_dict(part, where=where)) for name, part in values["parts"])
                )
            shape = tuple(int(size) for size in values["shape"])
            if kind == "multi_binary":
                return cls(kind, shape)
            if kind == "multi_discrete":
                return cls.multi_discrete(values["nvec"], values["starts"], shape)
            low, high = (tuple(float(v) for v in values[side]) for side in ("low", "high"))
            if not {len(low), len(high)} <= {1, math.prod(shape)}:
                raise ValueError(f"{len(low)} and {len(high)} bounds for {math.prod(shape)} numbers")
            return cls("box", shape, str(np.dtype(values["dtype"])), low, high)
        except (KeyError, TypeError, ValueError) as error:
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
