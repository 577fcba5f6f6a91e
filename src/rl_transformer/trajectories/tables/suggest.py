"""Guess a first mapping from the names, types and first values of a table's columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.types as pt

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.end_flags import DONE, TERMINATED, TRUNCATED, flag_kind, is_ambiguous
from rl_transformer.trajectories.tables.arrow import pc
from rl_transformer.trajectories.tables.inputs import TableInput
from rl_transformer.trajectories.tables.mapping import DECIMAL_COMMA, ColumnMapping
from rl_transformer.trajectories.tables.values import plain_type

_ROWS = 100_000
_NAMES = {
    "episode": r"(episode|traj\w*|session|user|patient|stay|customer|client|device|robot|vehicle)(_?(id|index|uuid|no|number))?",
    "reward": r"(next[._])?(reward|rewards|r|revenue|profit|click|clicks|outcome|score|rating)",
    "action": r"(actions?|a)|(action|act|dose|decision|treatment|control)([._].*|s)?",
    "order": r"(timestamp|time|ts|t|step|frame_index|timestep|date|datetime|order)(_?(index|id|ms|s|utc))?",
    "allowed": r"(mask|allowed|legal|valid|admissible|action_mask)[._].+",
}
_MOST_NAMES = 1000


@dataclass(frozen=True)
class Suggestion:
    """A guessed mapping, and for each of its fields why."""

    mapping: ColumnMapping
    reasons: dict[str, str]


def suggest_mapping(table: TableInput) -> Suggestion:
    """Return a mapping guessed from a table's columns and first 100,000 rows; it is meant to be edited.

    Raises:
        RLTransformerError: The table holds no rows, or no file can be read.
    """
    names = table.schema.names
    rows = _first_rows(table)
    kinds = {name: plain_type(table.schema.field(name).type) for name in names}
    chosen: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}

    def take(part: str, found: list[str], why: str) -> None:
        # A column has one part: what an earlier rule took is not offered to a later one.
        fresh = [name for name in found if not any(name in others for others in chosen.values())]
        if fresh:
            chosen[part] = fresh
            reasons[part] = why

    # Masks come first: "action_mask_0" would pass as an action, too.
    for part in ("allowed", "action", "reward"):
        take(part, _called(names, part), "by its name")
    for part, flag in (("terminated", (TERMINATED, DONE)), ("truncated", (TRUNCATED,))):
        found = [name for name in names if flag_kind(name) in flag and not is_ambiguous(name)]
        take(part, found[:1], "a usual name of this flag")
    take(
        "episode",
        [name for name in _called(names, "episode") if _repeats(rows[name])][:1],
        "by its name; its values repeat",
    )
    large = [name for name in names if _is_beyond_exact(rows[name]) and _repeats(rows[name])]
    if "episode" not in chosen:
        take("episode", large[:1], "ids, by their size; its values repeat")
    # A type says more than a name: a column of timestamps is the order whatever it is called.
    times = [name for name in names if pt.is_timestamp(kinds[name]) or pt.is_date(kinds[name])]
    take("order", times[:1] or _called(names, "order")[:1], "a time" if times else "by its name")
    rest = [name for name in names if not any(name in others for others in chosen.values())]
    commas = [name for name in names if _has_decimal_commas(rows[name])]
    numbers = [name for name in rest if name in commas or (name not in large and _is_observed(rows[name], name))]
    words = [name for name in rest if name not in numbers and _is_name(kinds[name]) and _few(rows[name])]
    take("observe", numbers, "numbers that vary")
    take("categorical", words, f"texts or ids with at most {_MOST_NAMES} different values in the first rows")
    left_out = [name for name in rest if name not in (*numbers, *words)]
    # Said, because a column that is missing from a guess looks like one that was never there.
    if left_out:
        reasons["left out"] = f"{', '.join(left_out)}: constant, unique, or of a type that is neither number nor name"
    values: dict[str, object] = {
        part: found if part in ("observe", "categorical", "action", "episode") else found[0]
        for part, found in chosen.items()
    }
    if "allowed" in chosen:
        values["allowed"] = re.sub(r"([._]).*", r"\1*", chosen["allowed"][0], count=1, flags=re.DOTALL)
    if commas:
        values["types"] = dict.fromkeys(commas, DECIMAL_COMMA)
        reasons["types"] = "numbers with a decimal comma"
    return Suggestion(ColumnMapping.from_values(values, where="suggestion"), reasons)


def as_yaml(suggestion: Suggestion) -> str:
    """Return a mapping as the text of a YAML file, with the reasons as comments."""
    lines = ["# A first guess: check every line."]
    for name, value in suggestion.mapping.to_dict().items():
        lines.append(f"# {suggestion.reasons.get(name, '')}")
        lines.append(f"{name}: {_scalar(value)}")
    for part in ("episode", "order", "action", "reward"):
        if not getattr(suggestion.mapping, part):
            again = ", and take it out of the lists above" if part in ("action", "reward") else ""
            lines.append(f"# {part}: no column was recognized; name one{again}")
    if "left out" in suggestion.reasons:
        lines.append(f"# left out: {suggestion.reasons['left out']}")
    return "\n".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(name)}: {_scalar(item)}" for name, item in value.items()) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _first_rows(table: TableInput) -> pa.Table:
    batches = []
    # Both limits: a file may consist of very many small batches.
    for batch in islice(table.batches(table.schema.names), 64):
        batches.append(batch)
        if sum(map(len, batches)) >= _ROWS:
            break
    if not batches:
        raise RLTransformerError("holds no rows", where=table.where, fix="name files with rows")
    return pa.Table.from_batches(batches).slice(0, _ROWS)


def _called(names: list[str], part: str) -> list[str]:
    return [name for name in names if re.fullmatch(_NAMES[part], name, re.IGNORECASE)]


def _is_id(name: str) -> bool:
    return re.search(r"(^|[._])(id|uuid|code|zip|index)$", name, re.IGNORECASE) is not None


def _is_number(kind: pa.DataType) -> bool:
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _is_number(kind.value_type)
    return (
        pt.is_integer(kind)
        or pt.is_floating(kind)
        or pt.is_decimal(kind)
        or pt.is_boolean(kind)
        or pt.is_duration(kind)
    )


def _is_name(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_integer(kind) or pt.is_boolean(kind)


def _is_observed(column: pa.ChunkedArray, name: str) -> bool:
    """Return True for numbers that vary and are no ids."""
    return _is_number(plain_type(column.type)) and _varies(column) and not _is_id(name)


def _is_beyond_exact(column: pa.ChunkedArray) -> bool:
    """Return True for integers of which float64 cannot hold all, which therefore are names and no numbers."""
    kind = plain_type(column.type)
    if not (pt.is_integer(kind) and not pt.is_nested(column.type)):
        return False
    extent = pc.min_max(column).as_py()
    return extent["max"] is not None and max(abs(extent["min"]), abs(extent["max"])) > 2**53


def _has_decimal_commas(column: pa.ChunkedArray) -> bool:
    """Return True for texts that are nearly all numbers with a comma, as in 12,50."""
    if not pt.is_string(column.type):
        return False
    values = pc.drop_null(pc.unique(column))
    found = pc.sum(pc.match_substring_regex(values, r"^\s*-?\d+,\d+\s*$")).as_py() or 0
    return len(values) > 1 and found >= 0.9 * len(values)


def _varies(column: pa.ChunkedArray) -> bool:
    return pt.is_nested(column.type) or _num_distinct(column) > 1


def _few(column: pa.ChunkedArray) -> bool:
    distinct = _num_distinct(column)
    return 1 < distinct <= min(_MOST_NAMES, max(2, len(column) // 2))


def _repeats(column: pa.ChunkedArray) -> bool:
    return _num_distinct(column) < len(column)


def _num_distinct(column: pa.ChunkedArray) -> int:
    return len(pc.unique(column))
