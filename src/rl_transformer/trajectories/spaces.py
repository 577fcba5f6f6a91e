"""What observations and actions may be, as plain data that is stored with data and policies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rl_transformer.errors import RLTransformerError

SMALLEST_IMAGE = 36  # pixels: what the image encoder's three convolutions leave one of
_CHANNELS = (1, 3, 4)
_KINDS = ("box", "discrete", "multi_binary", "dict", "tuple")


@dataclass(frozen=True)
class Space:
    """One space. ``kind`` says which of the other fields it uses."""

    kind: str
    """box, discrete, multi_binary, dict or tuple."""
    shape: tuple[int, ...] = ()
    """Shape of one value of a box or multi_binary."""
    dtype: str = "float32"
    """NumPy name of a box's numbers."""
    low: tuple[float, ...] = ()
    """Lower bounds of a box, flattened; one number stands for all."""
    high: tuple[float, ...] = ()
    """Upper bounds of a box, flattened; one number stands for all."""
    n: int = 0
    """Number of values of a discrete space."""
    start: int = 0
    """Smallest value of a discrete space."""
    parts: tuple[tuple[str, Space], ...] = field(default=())
    """Named parts of a dict or tuple, in order."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) if a value is a picture, else None.

        A picture is bytes with two axes, or with three of which the first or last are channels, and
        large enough for the image encoder. Smaller grids are flattened like any other box.
        """
        if self.kind != "box" or self.dtype != "uint8" or len(self.shape) not in (2, 3):
            return None
        first, second, third = (1, *self.shape) if len(self.shape) == 2 else self.shape
        shape = (third, first, second) if self._channels_last else (first, second, third)
        return shape if min(shape[1:]) >= SMALLEST_IMAGE else None

    @property
    def _channels_last(self) -> bool:
        return len(self.shape) == 3 and self.shape[2] in _CHANNELS and self.shape[0] not in _CHANNELS

    @property
    def is_image(self) -> bool:
        """Whether a value is a picture."""
        return self.image_shape is not None

    @property
    def has_image(self) -> bool:
        """Whether it is a picture, or a dict or tuple with one anywhere inside."""
        return self.is_image or any(part.has_image for _, part in self.parts)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """Shape of what `flatten` makes of one value."""
        return self.image_shape or (self.flat_dim,)

    @property
    def _flat_dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.is_image else np.float32)

    @property
    def flat_dim(self) -> int:
        """Length of a value flattened to one vector."""
        if self.kind == "discrete":
            return self.n
        if self.kind in ("dict", "tuple"):
            return sum(part.flat_dim for _, part in self.parts)
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of a box, as float32 arrays of its flattened size."""
        size = math.prod(self.shape)
        low, high = (np.broadcast_to(np.asarray(v, np.float32), size) for v in (self.low, self.high))
        return low, high

    def flatten(self, values: Any, *, where: object = "observation") -> np.ndarray:
        """Turn values with one leading axis into float32 vectors (T, flat_dim), images into bytes (T, C, H, W).

        A discrete value becomes one-hot; the parts of a dict or tuple stand one after the other, in
        the order of the space.

        Raises:
            RLTransformerError: The values do not have the form of this space.
        """
        if isinstance(values, np.ndarray) and (values.shape[1:], values.dtype) == (self.flat_shape, self._flat_dtype):
            return values  # a data set's own rows, written again
        if self.kind in ("dict", "tuple"):
            if isinstance(values, dict | tuple | list) and len(values) != len(self.parts):
                raise RLTransformerError(
                    f"has {len(values)} parts, and the space has {len(self.parts)}: {', '.join(n for n, _ in self.parts)}",
                    where=where,
                    fix="record exactly the parts of the observation space",
                )
            return np.concatenate(
                [part.flatten(_part(values, name, where), where=f"{where}[{name}]") for name, part in self.parts],
                axis=1,
            )
        array = np.asarray(values)
        if self.kind == "discrete":
            if array.size != len(array) or array.dtype.kind not in "iufb":
                raise RLTransformerError(
                    f"has shape {array.shape[1:]} of {array.dtype}, and a discrete value is one number",
                    where=where,
                    fix="record one number a step",
                )
            index = array.reshape(len(array)) - self.start
            with np.errstate(invalid="ignore"):
                bad = ~((index >= 0) & (index < self.n) & (index == np.floor(index)))
            if bad.any():
                raise RLTransformerError(
                    f"{index[bad][0] + self.start} is not one of the {self.n} values from {self.start}",
                    where=where,
                    fix="record values of the declared space",
                )
            return np.eye(self.n, dtype=np.float32)[index.astype(np.int64)]
        if array.shape[1:] != self.shape:
            raise RLTransformerError(
                f"has shape {array.shape[1:]}, and the space has {self.shape}",
                where=where,
                fix="use the environment (and its version) that the data came from",
            )
        if not self.is_image:
            return array.astype(np.float32).reshape(len(array), -1)
        if array.dtype != np.uint8:
            raise RLTransformerError(
                f"is {array.dtype}, and images are uint8", where=where, fix="record bytes from 0 to 255"
            )
        return np.moveaxis(array, -1, 1) if self._channels_last else array.reshape(len(array), *self.flat_shape)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; infinite bounds become the words inf and -inf."""
        if self.kind == "box":
            return {
                "kind": "box",
                "shape": list(self.shape),
                "dtype": self.dtype,
                "low": _words(self.low),
                "high": _words(self.high),
            }
        if self.kind == "discrete":
            return {"kind": "discrete", "n": self.n, "start": self.start}
        if self.kind == "multi_binary":
            return {"kind": "multi_binary", "shape": list(self.shape)}
        return {"kind": self.kind, "parts": [[name, part.to_dict()] for name, part in self.parts]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object = "space") -> Space:
        """Read what `to_dict` returned."""
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
            low, high = (tuple(float(v) for v in values[side]) for side in ("low", "high"))
            if not {len(low), len(high)} <= {1, math.prod(shape)}:
                raise ValueError(f"{len(low)} and {len(high)} bounds for {math.prod(shape)} numbers")
            return cls("box", shape, str(np.dtype(values["dtype"])), low, high)
        except (KeyError, TypeError, ValueError) as error:
            raise RLTransformerError(
                f"does not describe a space: {error}", where=where, fix="write the file again"
            ) from None

    @classmethod
    def box(cls, shape: tuple[int, ...], low: Any = -math.inf, high: Any = math.inf, dtype: str = "float32") -> Space:
        """Return a box; equal bounds are kept as one number."""
        return cls("box", tuple(shape), dtype, _compact(low), _compact(high))

    @classmethod
    def discrete(cls, n: int, start: int = 0) -> Space:
        """Return the whole numbers start ... start + n - 1."""
        return cls("discrete", n=n, start=start)

    @classmethod
    def from_gymnasium(cls, space: Any, *, where: object) -> Space:
        """Translate a gymnasium space, or refuse it by name."""
        kind = type(space).__name__
        if kind == "Box":
            return cls.box(space.shape, space.low, space.high, str(space.dtype))
        if kind == "Discrete":
            return cls.discrete(int(space.n), int(space.start))
        if kind == "MultiBinary":
            return cls("multi_binary", tuple(space.shape))
        if kind == "Dict":
            return cls(
                "dict",
                parts=tuple((name, cls.from_gymnasium(part, where=where)) for name, part in space.spaces.items()),
            )
        if kind == "Tuple":
            return cls(
                "tuple",
                parts=tuple((str(i), cls.from_gymnasium(part, where=where)) for i, part in enumerate(space.spaces)),
            )
        raise RLTransformerError(
            f"the space {kind} is not supported",
            where=where,
            fix="use Box, Discrete, MultiBinary, or Dict and Tuple of these; flatten other spaces with a wrapper before recording",
        )


@dataclass(frozen=True)
class DataSpec:
    """Spaces of a data set, and what else its source says about it (text, never code)."""

    observation_space: Space
    action_space: Space
    source: str = ""
    """Where the data came from, as a person would name it."""
    env_id: str | None = None
    """Environment named by the source; shown, never built from here."""

    def __post_init__(self) -> None:
        if self.action_space.kind not in ("box", "discrete") or self.action_space.is_image:
            raise RLTransformerError(
                f"actions of kind {self.action_space.kind} are not supported",
                where=self.source or "action space",
                fix="use data with Box or Discrete actions",
            )
        if self.observation_space.parts and self.observation_space.has_image:
            raise RLTransformerError(
                "an image inside a dict or tuple observation is not supported",
                where=self.source or "observation space",
                fix="record the image alone, or leave it out",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        spaces = {"observation_space": self.observation_space.to_dict(), "action_space": self.action_space.to_dict()}
        return {**spaces, "source": self.source, "env_id": self.env_id}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object) -> DataSpec:
        """Read what `to_dict` returned."""
        observation, action = (
            Space.from_dict(values.get(f"{name}_space", {}), where=where) for name in ("observation", "action")
        )
        return cls(observation, action, str(values.get("source", "")), values.get("env_id"))


def _compact(bound: Any) -> tuple[float, ...]:
    flat = np.asarray(bound, np.float64).reshape(-1)
    return (float(flat[0]),) if flat.size and (flat == flat[0]).all() else tuple(map(float, flat))


def _words(bounds: tuple[float, ...]) -> list[float | str]:
    return [b if math.isfinite(b) else str(b) for b in bounds]


def _part(values: Any, name: str, where: object) -> Any:
    try:
        return values[int(name)] if isinstance(values, tuple | list) else values[name]
    except (KeyError, IndexError, ValueError, TypeError):
        raise RLTransformerError(
            f"has no part {name!r}", where=where, fix="record every part of the observation space"
        ) from None
