"""Convert values for `Space`: flat vectors and images, bounds and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.images import image_axes
from rl_transformer.trajectories.nested import select_part

if TYPE_CHECKING:
    from rl_transformer.trajectories.spaces import Space

# Possible for recorded data and for live observations alike.
_FIX = "declare the space that the recorded observations are from, and act in an environment with the same space"


def flatten(space: Space, values: Nested, where: object) -> np.ndarray:
    """Convert values with one leading axis to vectors or images; see `Space.flatten`."""
    # Rows of a store are flat already and need no copy. One-hot rows would even be rejected below, as no indices.
    if isinstance(values, np.ndarray) and (values.shape[1:], values.dtype) == (space.flat_shape, space.flat_dtype):
        return values
    if space.kind in ("dict", "tuple"):
        flat = [
            part.flatten(part_values, where=f"{where}[{name}]")
            for name, part, part_values in parts_of(space, values, where)
        ]
        return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    array = np.asarray(values)
    if space.kind == "discrete":
        return one_hot(indices(space, array, where=where), (space.n,))
    if space.kind == "multi_discrete":
        return one_hot(indices(space, array, where=where), space.nvec)
    if array.shape[1:] != space.shape:
        raise RLTransformerError(
            f"has shape {array.shape[1:]}, and the space has {space.shape}",
            where=where,
            fix="use the environment (and its version) that the data came from",
        )
    if not space.is_image:
        return array.astype(np.float32).reshape(len(array), -1)
    # Images stay bytes, which take a quarter of the memory; they are divided by 255 on the device.
    if array.dtype != np.uint8:
        raise RLTransformerError(
            f"is {array.dtype}, and images are uint8", where=where, fix="record bytes from 0 to 255"
        )
    axes = image_axes(space.shape) or ()
    return array.transpose(0, *(axis + 1 for axis in axes)).reshape(len(array), *space.flat_shape)


def parts_of(space: Space, values: Nested, where: object) -> Iterator[tuple[str, Space, Nested]]:
    """Yield (name, space, values) for every part of a dict or tuple.

    Raises:
        RLTransformerError: The values lack a part, or have one that the space does not know.
    """
    # A missing part raises an error by name below; an unknown one would be dropped without notice.
    if isinstance(values, dict | tuple | list):
        given = values if isinstance(values, dict) else map(str, range(len(values)))
        known = [name for name, _ in space.parts]
        seen = [str(name) for name in given if str(name) not in space.ignored]
        if len(seen) != len(known):
            unknown = [name for name in seen if name not in known]
            raise RLTransformerError(
                f"has {len(seen)} parts, and the space has {len(known)}: {', '.join(known)}"
                + (f"; unknown: {', '.join(unknown)}" if unknown else ""),
                where=where,
                fix=_FIX,
            )
    for name, part in space.parts:
        yield name, part, select_part(values, name, where)


def observed(space: Space, values: Nested) -> Nested:
    """Return nested values without the parts that the space ignores."""
    if not isinstance(values, dict | tuple):
        return values
    named = values if isinstance(values, dict) else {str(i): part for i, part in enumerate(values)}
    if not space.ignored and not any(part.parts for _, part in space.parts):
        return values
    parts = dict(space.parts)
    kept = {name: part for name, part in named.items() if name not in space.ignored}
    return {name: observed(parts[name], part) if name in parts else part for name, part in kept.items()}


def indices(space: Space, array: np.ndarray, *, where: object) -> np.ndarray:
    """Return discrete observations as indices from 0: (T,), or (T, P) for P parts.

    Raises:
        RLTransformerError: A value is not a number of the space.
    """
    size = math.prod(space.action_shape)
    if array.size != len(array) * size or array.dtype.kind not in "iufb":
        expected = "one number" if space.kind == "discrete" else f"{size} numbers"
        raise RLTransformerError(
            f"has shape {array.shape[1:]} of {array.dtype}, and a value of this space is {expected}",
            where=where,
            fix=f"pass {expected} per observation",
        )
    bad = space.outside(array)
    if bad.any():
        first = array.reshape(bad.shape)[bad][0]
        allowed = f"the {space.n} values from {space.start}" if space.kind == "discrete" else f"{space.nvec} values"
        raise RLTransformerError(f"{first} is not one of {allowed}", where=where, fix=_FIX)
    return array.reshape(len(array), *space.action_shape).astype(np.int64) - space.first_values


def number_dtype(name: object) -> str:
    """Return the name of a dtype of numbers, as NumPy writes it; raise a `ValueError` or `TypeError` for another one."""
    kind = np.dtype(str(name))
    if kind.kind not in "biuf":
        raise ValueError(f"{name!r:.100} is not a numeric dtype")
    return str(kind)


@lru_cache(maxsize=64)  # asked for again with every episode
def box_bounds(low: tuple[float, ...], high: tuple[float, ...], size: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of a box as float32 arrays (size,); see `Space.bounds`."""
    kind = np.dtype(dtype)
    limits = np.finfo(kind if kind.kind == "f" else np.float32)
    # Programs write "no bounds" as the largest number of their dtype. As real bounds they would overflow: half their
    # width, by which actions are divided, turns all of them into 0.
    below = np.broadcast_to(np.asarray(low, np.float64), size)
    above = np.broadcast_to(np.asarray(high, np.float64), size)
    smallest = max(float(limits.min), float(np.finfo(np.float32).min))
    largest = min(float(limits.max), float(np.finfo(np.float32).max))
    if kind.kind in "iu" and kind.itemsize >= 4:
        smallest = float(np.iinfo(kind).min) if kind.kind == "i" else -math.inf  # 0 is a real bound
        largest = float(np.iinfo(kind).max)
    with np.errstate(over="ignore", invalid="ignore"):
        overflows = (above - below > np.finfo(np.float32).max) & np.isfinite(below) & np.isfinite(above)
        lower = np.where((below <= smallest) | overflows, -np.inf, below).astype(np.float32)
        upper = np.where((above >= largest) | overflows, np.inf, above).astype(np.float32)
    # Every caller gets the same arrays.
    lower.setflags(write=False)
    upper.setflags(write=False)
    return lower, upper


def one_hot(indices: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return indices (T,) or (T, P) as concatenated one-hot vectors: (T, sum(sizes)) float32."""
    offsets = np.cumsum((0, *sizes[:-1]))
    encoded = np.zeros((len(indices), sum(sizes)), np.float32)
    columns = indices.reshape(len(indices), -1) + offsets
    np.put_along_axis(encoded, columns, 1.0, axis=1)
    return encoded


def compact_bound(bound: ArrayLike) -> tuple[float, ...]:
    """Return a bound of a box as a flat tuple, with a single number if all elements are equal."""
    # An image has tens of thousands of equal bounds; writing them all would bloat every JSON file with a space in it.
    flat = np.asarray(bound, np.float64).reshape(-1)
    return (float(flat[0]),) if flat.size and (flat == flat[0]).all() else tuple(map(float, flat))


def json_value(value: Any) -> Any:
    """Return a value for JSON: tuples become lists, and infinite numbers strings, because JSON has no infinity."""
    if isinstance(value, tuple):
        return [json_value(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
