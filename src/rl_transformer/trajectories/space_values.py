"""Convert values for `Space`: one-hot vectors, bounds and JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


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
