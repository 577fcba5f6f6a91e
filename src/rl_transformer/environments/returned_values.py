"""Check and describe values that environments return."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.spaces import Space


def copied(values: Nested) -> Nested:
    """Return a copy of an observation or action, through nested dicts and tuples."""
    if isinstance(values, np.ndarray):
        return values.copy()
    if isinstance(values, dict):
        return {name: copied(part) for name, part in values.items()}
    if isinstance(values, tuple):
        return tuple(copied(part) for part in values)
    return copy.deepcopy(values)


def misfit(observation: Nested, space: Space, path: str) -> str | None:
    """Return how an observation differs in its form from the space, or None."""
    if space.kind in ("dict", "tuple"):
        is_dict = isinstance(observation, Mapping)
        if not isinstance(observation, Mapping | tuple | list) or is_dict != (space.kind == "dict"):
            return f"{path} is {described(observation)}, and its space is a {space.kind}"
        names = list(observation) if isinstance(observation, Mapping) else [str(i) for i in range(len(observation))]
        if set(names) - set(space.ignored) != {name for name, _ in space.parts}:
            return f"{path} has the parts {names}, and its space {[name for name, _ in space.parts]}"
        # Parts that the policy ignores may be of any form.
        parts = observation if isinstance(observation, Mapping) else dict(zip(names, observation, strict=True))
        problems = (misfit(parts[name], part, f"{path}[{name}]") for name, part in space.parts)
        return next((problem for problem in problems if problem), None)
    if isinstance(observation, Mapping):
        return f"{path} is {described(observation)}, and its space is a {space.kind}"
    if space.kind in ("box", "multi_binary"):
        try:
            shape = np.shape(observation)
        except ValueError:  # nested lists of unequal lengths
            return f"{path} is not an array, and its space has shape {space.shape}"
        if shape != space.shape:
            return f"{path} has shape {shape}, and its space {space.shape}"
    return None


def described(value: object) -> str:
    """Return a short description of what an environment returned."""
    if isinstance(value, Mapping):
        return f"a dict with the keys {sorted(map(str, value))[:5]}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if getattr(value, "shape", None):
        return f"an array of shape {tuple(value.shape)}"  # pyright: ignore[reportAttributeAccessIssue]
    return f"{value!r:.80}" if isinstance(value, str | bytes | int | float | None) else f"a {type(value).__name__}"


def message(error: BaseException) -> str:
    """Return type and text of an exception in one line."""
    text = " ".join(str(error).split())[:600]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def as_number(value: Any) -> float:
    """Return a number, or the one number in an array, tensor or list of size 1, as a float.

    Raises:
        TypeError, ValueError, RuntimeError: It is something else.
    """
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    if hasattr(value, "item"):  # of arrays and tensors of any library; raises if there are more numbers
        value = value.item()
    if isinstance(value, str | bytes):  # float() would read it
        raise TypeError("text")
    return float(value)
