"""Names for values whose type cannot be written more closely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object: text keys, and values that the json module writes."""

JsonMapping: TypeAlias = Mapping[str, Any]
"""A JSON object that is only read."""

OptionValue: TypeAlias = Any
"""The value of an option: plain data of the type that its section declares."""

Nested: TypeAlias = Any
"""An array, or nested dicts and tuples of arrays: observations have the nesting of their space."""
