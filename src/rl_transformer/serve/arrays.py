"""Arrays in msgpack, in the format of openpi's client: numbers only, never objects, and as large as their bytes.

A map with the keys ``__ndarray__``, data, dtype and shape is an array; one with ``__npgeneric__`` a single number.
"""

from __future__ import annotations

import math

import msgpack
import numpy as np

from rl_transformer.runtime.types import JsonObject, Nested
from rl_transformer.serve.answers import MALFORMED, RequestError, beyond
from rl_transformer.serve.limits import ServeLimits

_ARRAY = b"__ndarray__"
_NUMBER = b"__npgeneric__"
_FIX = "send what openpi_client.msgpack_numpy.packb makes of a dict of numbers and arrays of numbers"
_MAX_AXES = 8


def unpack(content: bytes, limits: ServeLimits) -> JsonObject:
    """Return the dict in a message.

    Raises:
        RequestError: It is no dict of plain values and arrays of numbers, or is nested too deeply.
    """
    try:
        value = msgpack.unpackb(content, object_hook=_read_map, ext_hook=_refuse_extension, strict_map_key=False)
        _check_plain(value, limits)
    except RecursionError:
        raise beyond(limits, "json_depth", "is nested too deeply", where="message") from None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        problem = f"cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}"
        raise RequestError(MALFORMED, problem, where="message", fix=_FIX) from None
    if not isinstance(value, dict):
        raise RequestError(MALFORMED, "is not a dict", where="message", fix=_FIX)
    return value


def pack(value: JsonObject) -> bytes:
    """Return a dict as a message."""
    content = msgpack.packb(value, default=_write_array)
    assert content is not None  # it is for streams only
    return content


def _write_array(value: object) -> Nested:
    """Return an array as plain values."""
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {_NUMBER: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _read_map(values: dict[object, Nested]) -> Nested:
    """Return the array or number that a map stands for, or else the map."""
    if _ARRAY in values:
        dtype = _dtype(values.get(b"dtype"))
        shape = values.get(b"shape")
        data = values.get(b"data")
        if not isinstance(shape, list) or len(shape) > _MAX_AXES:
            raise ValueError(f"an array has the shape {shape!r:.100}")
        if not all(type(size) is int and 0 <= size < 2**31 for size in shape):
            raise ValueError(f"an array has the shape {shape!r:.100}")
        # The declared size is that of the bytes that came, so that no memory is taken for a promise.
        if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} and {dtype} has not as many bytes")
        if dtype.kind == "b":
            return np.frombuffer(data, np.uint8).reshape(shape) != 0
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
    if _NUMBER in values:
        number = values.get(b"data")
        if type(number) not in (int, float, bool):
            raise ValueError(f"a number is {number!r:.100}")
        return _dtype(values.get(b"dtype")).type(number)
    return values


def _dtype(name: Nested) -> np.dtype:
    """Return a dtype of plain numbers from its name."""
    # NumPy would also read names such as "O" (objects) and lists of fields.
    kinds = {kind + size for kind in "iu" for size in "1248"} | {"f2", "f4", "f8", "b1"}
    if not isinstance(name, str) or name[:1] not in "<>|=" or name[1:] not in kinds:
        raise ValueError(f"an array has the dtype {name!r:.100}")
    return np.dtype(name)


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"it holds a value of extension type {code}")


def _check_plain(value: object, limits: ServeLimits) -> None:
    """Raise an error for names that are not texts, values of other kinds, and too many levels."""
    level = [value]
    for _ in range(limits.json_depth):
        for one in level:
            if isinstance(one, dict) and not all(isinstance(name, str) for name in one):
                raise ValueError("the names in a dict are not texts")
            if isinstance(one, bytes | msgpack.Timestamp):
                raise ValueError(f"it holds {type(one).__name__}")
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise beyond(limits, "json_depth", f"holds more than {limits.json_depth} levels", where="message")
