"""Build the arrays, numbers and bytes of pickled files, under the names that NumPy 1 and 2 and Python write for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

_Arguments = tuple[object, ...]
_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_MOST_AXES = 32


class ForeignError(ValueError):
    """Is raised for what a file holds besides plain values."""


class Room:
    """Counts the bytes that are built, so that a value that a small file uses a million times is not built as often."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> None:
        """Raise `ForeignError` if there is no room for ``size`` more bytes."""
        self._left -= size
        if self._left < 0:
            raise ForeignError("builds more bytes than the file holds: the same values are used many times")


@dataclass(frozen=True, eq=False)
class Global:
    """Stands for a function or class of a name in a file."""

    build: Callable[[_Arguments, Room], object]


@dataclass(eq=False)
class Unfinished:
    """Stands for an array or a type of numbers until the file gives its state."""

    finish: Callable[[_Arguments, Room], object]
    memos: list[int] = field(default_factory=list)
    """Where the file keeps it."""


def _encode(arguments: _Arguments, room: Room) -> bytes:
    """Return bytes that protocols 0 to 2 write as text: ``_codecs.encode(text, "latin1")``."""
    text = arguments[0] if arguments else None
    if not isinstance(text, str) or arguments[1:] not in (("latin1",), ("latin-1",)):
        raise ForeignError("encodes a text in another way than bytes are written")
    room.take(len(text))
    return text.encode("latin-1")


def _bytes(arguments: _Arguments, room: Room) -> bytes:
    """Return the empty bytes of protocols 0 to 2."""
    if arguments:
        raise ForeignError("makes bytes from something else")
    return b""


def _bytearray(arguments: _Arguments, room: Room) -> bytearray:
    """Return a copy of bytes."""
    if len(arguments) > 1 or not all(type(a) is bytes for a in arguments):
        raise ForeignError("makes a bytearray from something else than bytes")
    content = _raw(arguments[0], room) if arguments else b""
    return bytearray(content)


def _raw(content: object, room: Room) -> bytes | bytearray:
    """Return the bytes of an array; Python 2 wrote them as a text."""
    if isinstance(content, str):
        room.take(len(content))
        content = content.encode("latin-1")
    if not isinstance(content, bytes | bytearray):
        raise ForeignError(f"has an array whose values are a {type(content).__name__}")
    room.take(len(content))
    return content


def _dtype(arguments: _Arguments, room: Room) -> Unfinished:
    """Return a type of numbers that waits for its byte order."""
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or code not in _TYPES:
        shown = code if isinstance(code, str) else type(code).__name__
        raise ForeignError(f"has an array of the type {shown!r:.50}, which is not a plain number")
    plain = np.dtype(code)

    def finish(state: _Arguments, room: Room) -> np.dtype:
        # (version, byte order, parts of a structure: three, size, alignment, flags), of which numbers use the first two.
        order = state[1] if len(state) >= 5 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError("has a type of numbers without a byte order")
        if any(part is not None for part in state[2:5]):
            raise ForeignError("has an array of a structured type")
        return plain if order in ("|", "=") else plain.newbyteorder("<" if order == "<" else ">")

    return Unfinished(finish)


def _reconstruct(arguments: _Arguments, room: Room) -> Unfinished:
    """Return an array that waits for its shape, type and values."""
    if not arguments or arguments[0] is not _NDARRAY:
        raise ForeignError("has an array of a class of its own")

    def finish(state: _Arguments, room: Room) -> np.ndarray:
        if len(state) != 5 or type(state[3]) not in (bool, int):
            raise ValueError("has an array whose state is malformed")
        array = _array(state[4], state[2], state[1], "F" if state[3] else "C", room)
        if array.dtype.isnative:
            return array
        # As NumPy does, which swaps the bytes here, and not in arrays of protocol 5.
        room.take(array.nbytes)
        return array.astype(array.dtype.newbyteorder("="))

    return Unfinished(finish)


def _from_buffer(arguments: _Arguments, room: Room) -> np.ndarray:
    """Return an array of protocol 5: (values, type, shape, order), and, for other orders of axes, their order."""
    if len(arguments) not in (4, 5):
        raise ValueError("has an array with a wrong number of fields")
    content, dtype, shape, order = arguments[:4]
    if order == "K" and len(arguments) == 5:
        axes = _integers(arguments[4], "axes")
        if sorted(axes) != list(range(len(axes))):
            raise ValueError("has an array whose axes are malformed")
        return _array(content, dtype, shape, "C", room).transpose(axes)
    if order not in ("C", "F"):
        raise ValueError("has an array whose order is malformed")
    return _array(content, dtype, shape, str(order), room)


def _array(content: object, dtype: object, shape: object, order: str, room: Room) -> np.ndarray:
    """Return an array after comparing its shape with the bytes at hand."""
    if not isinstance(dtype, np.dtype):
        raise ValueError("has an array without a type")
    sizes = _integers(shape, "shape")
    raw = _raw(content, room)
    needed = math.prod(sizes) * dtype.itemsize
    if needed != len(raw):
        raise ValueError(f"has an array of shape {sizes} that needs {needed} bytes, and {len(raw)} are there")
    if dtype.kind == "b" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise ValueError("has an array of bool with other values than 0 and 1")
    return np.frombuffer(raw, dtype).reshape(sizes, order="F" if order == "F" else "C")


def _integers(values: object, what: str) -> tuple[int, ...]:
    """Return sizes or numbers of axes after checking them."""
    found = values if isinstance(values, tuple) and len(values) <= _MOST_AXES else (None,)
    integers = tuple(value for value in found if type(value) is int and 0 <= value < 2**62)
    if len(integers) < len(found):
        raise ValueError(f"has an array whose {what} is malformed")
    return integers


def _scalar(arguments: _Arguments, room: Room) -> np.generic:
    """Return one number of NumPy: (type, bytes)."""
    if len(arguments) != 2:
        raise ValueError("has a number that is malformed")
    return _array(arguments[1], arguments[0], (1,), "C", room)[0]


def _only_named(arguments: _Arguments, room: Room) -> object:
    raise ForeignError("calls numpy.ndarray, which arrays are not written with")


_NDARRAY = Global(_only_named)
GLOBALS = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Global(_dtype),
    ("_codecs", "encode"): Global(_encode),
    # NumPy 2 renamed numpy.core to numpy._core; Python 2 had __builtin__ instead of builtins.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Global(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Global(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Global(_from_buffer) for core in ("core", "_core")},
    **{(module, "bytes"): Global(_bytes) for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): Global(_bytearray) for module in ("builtins", "__builtin__")},
}
"""What stands for the names that files may use, by module and name. Everything else is refused."""
