"""Observations that are dicts or tuples of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def stack(observations: Sequence[Any]) -> Any:
    """Stack observations along a new first axis, through nested dicts and tuples."""
    first = observations[0]
    if isinstance(first, dict):
        return {name: stack([o[name] for o in observations]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack([o[i] for o in observations]) for i in range(len(first)))
    return np.stack([np.asarray(o) for o in observations])
