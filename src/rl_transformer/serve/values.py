"""Turn what clients send into observations, and what policies answer into values that JSON can hold."""

from __future__ import annotations

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.actions import describe_space
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.spaces import Space


def read_observation(space: Space, value: Nested, where: str = "observation") -> Nested:
    """Return an observation of lists and objects (or arrays) as the session takes it.

    Args:
        space: The observation space of the policy.
        value: As it was sent.
        where: Its name, for messages.

    Raises:
        RLTransformerError: It holds something else than numbers. Shapes and names of parts are checked by the session.
    """
    parts = dict(space.parts)
    if space.kind == "dict" and isinstance(value, dict):
        # A part that the space does not know stays as it is; the session names it.
        return {
            name: read_observation(parts[name], part, f"{where}[{name}]") if name in parts else part
            for name, part in value.items()
        }
    if space.kind == "tuple" and isinstance(value, list | tuple) and len(value) == len(parts):
        pairs = zip(space.parts, value, strict=True)
        return tuple(read_observation(part, each, f"{where}[{name}]") for (name, part), each in pairs)
    array = read_numbers(value, where, fix=f"send {describe_space(space)}")
    if space.kind != "box":
        return array
    if space.has_image:
        # JSON has no bytes; whole numbers that a byte holds are pixels.
        is_bytes = array.dtype.kind in "iu" and array.size > 0 and array.min() >= 0 and array.max() <= 255
        return array.astype(np.uint8) if is_bytes else array
    return array


def read_numbers(value: Nested, where: str, *, fix: str) -> np.ndarray:
    """Return nested lists as an array of finite numbers that float32 can hold.

    Raises:
        RLTransformerError: They are something else.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # lists of different lengths, or nested too deeply
        raise RLTransformerError("its lists have different lengths", where=f"act: {where}", fix=fix) from None
    if array.dtype.kind not in "biuf":
        kind = "numbers that are too large" if _is_integer(value) else f"{type(value).__name__} of other values"
        raise RLTransformerError(f"is {kind}, not numbers", where=f"act: {where}", fix=fix)
    if array.dtype.kind == "f" and not (np.abs(array) <= np.finfo(np.float32).max).all():
        raise RLTransformerError("holds a number that is not finite in float32", where=f"act: {where}", fix=fix)
    return array


def _is_integer(value: object) -> bool:
    return type(value) is int or (isinstance(value, list) and bool(value) and _is_integer(value[0]))


def read_mask(allowed: Nested) -> Nested:
    """Return a mask of legal actions; a list of lists holds one mask for each part of a multi-discrete action."""
    if isinstance(allowed, list) and allowed and all(isinstance(part, list) for part in allowed):
        return tuple(allowed)
    return allowed


def to_plain(value: Nested) -> Nested:
    """Return an action as numbers and lists; float32 numbers are exact in JSON."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
