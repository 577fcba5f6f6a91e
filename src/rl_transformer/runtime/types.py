"""Name types that Python's annotations cannot describe more precisely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object: a dict with strings as keys and values that the json module can write."""

JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""

OptionValue: TypeAlias = Any
"""The value of an option: plain data of the type that its section declares."""

Nested: TypeAlias = Any
"""An array, or nested dicts and tuples of arrays; observations are nested like their space."""
