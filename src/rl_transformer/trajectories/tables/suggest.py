"""Guess a first mapping from the names, types and first values of a table's columns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
_FEWEST_IDS = 20


@dataclass(frozen=True)
class Suggestion:
    """A guessed mapping, and for each of its fields why."""

    mapping: ColumnMapping
    reasons: dict[str, str]


@dataclass
class _Guess:
    """The parts of a mapping that have been found so far, and why."""

    rows: pa.Table
    chosen: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return self.rows.column_names

    @property
    def rest(self) -> list[str]:
        """Columns that have no part yet."""
        return [name for name in self.names if not any(name in found for found in self.chosen.values())]

    def take(self, part: str, found: list[str], why: str) -> None:
        # A column has one part: what an earlier rule took is not offered to a later one.
        fresh = [name for name in found if name in self.rest]
        if fresh:
            self.chosen[part] = fresh
            self.reasons[part] = why


def suggest_mapping(table: TableInput) -> Suggestion:
    """Return a mapping guessed from a table's columns and first 100,000 rows; it is meant to be edited.

    Raises:
        RLTransformerError: The table holds no rows, or no file can be read.
    """
    guess = _Guess(_first_rows(table))
    names = guess.names
    kinds = {name: plain_type(table.schema.field(name).type) for name in names}
    # Masks come first: "action_mask_0" would pass as an action, too.
    for part in ("allowed", "action", "reward"):
        guess.take(part, _called(names, part), "by its name")
    for part, flag in (("terminated", (TERMINATED, DONE)), ("truncated", (TRUNCATED,))):
        found = [name for name in names if flag_kind(name) in flag and not is_ambiguous(name)]
        guess.take(part, found[:1], "a usual name of this flag")
    large = [name for name in names if _is_beyond_exact(guess.rows[name]) and _repeats(guess.rows[name])]
    _take_episode(guess, large)
    # A type says more than a name: a column of timestamps is the order whatever it is called.
    times = [name for name in names if pt.is_timestamp(kinds[name]) or pt.is_date(kinds[name])]
    guess.take("order", times[:1] or _called(names, "order")[:1], "a time" if times else "by its name")
    commas = [name for name in names if _has_decimal_commas(guess.rows[name])]
    _take_observations(guess, kinds, commas, large)
    values: dict[str, object] = {
        part: found if part in ("observe", "categorical", "action", "episode") else found[0]
        for part, found in guess.chosen.items()
    }
    if "allowed" in guess.chosen:
        values["allowed"] = re.sub(r"([._]).*", r"\1*", guess.chosen["allowed"][0], count=1, flags=re.DOTALL)
    if commas:
        values["types"] = dict.fromkeys(commas, DECIMAL_COMMA)
        guess.reasons["types"] = "numbers with a decimal comma"
    return Suggestion(ColumnMapping.from_values(values, where="suggestion"), guess.reasons)


def _take_episode(guess: _Guess, large: list[str]) -> None:
    """Find what separates the episodes, and who has several of them."""
    rows = guess.rows
    named = [name for name in _called(guess.names, "episode") if _repeats(rows[name])]
    guess.take("episode", named[:1], "by its name; its values repeat")
    if "episode" not in guess.chosen:
        guess.take("episode", large[:1], "ids, by their size; its values repeat")
    ids = [name for name in guess.names if _looks_like_ids(rows[name], name)]
    if "episode" not in guess.chosen:
        # Of customers and their sessions, both of whose rows follow one another, a session is the episode.
        together = sorted((_num_distinct(rows[name]), name) for name in ids if _stands_together(rows[name]))
        guess.take("episode", [name for _, name in together[-1:]], "ids; the rows of each follow one another")
    episode = guess.chosen.get("episode", [])
    owners = [name for name in ids if name in guess.rest and _owns(rows, name, episode)]
    if owners:
        guess.chosen["episode"] = [owners[0], *episode]
        guess.reasons["episode"] += (
            f"; each has one {owners[0]}, which goes first, because splits by entity divide the first column"
        )


def _take_observations(guess: _Guess, kinds: dict[str, pa.DataType], commas: list[str], large: list[str]) -> None:
    """Find what a policy could see, among the columns that are left."""
    rows = guess.rows
    numbers = [name for name in guess.rest if name in commas or (name not in large and _is_observed(rows[name], name))]
    guess.take("observe", numbers, "numbers that vary")
    words = [name for name in guess.rest if _is_name(kinds[name]) and _few(rows[name])]
    guess.take("categorical", words, f"texts or ids with at most {_MOST_NAMES} different values in the first rows")
    # Said, because a column that is missing from a guess looks like one that was never there.
    if guess.rest:
        guess.reasons["left out"] = (
            f"{', '.join(guess.rest)}: constant, unique, more than {_MOST_NAMES} different values, or neither numbers nor names"
        )


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


def _looks_like_ids(column: pa.ChunkedArray, name: str) -> bool:
    """Return True for texts with digits, and for integers that are called ids, of which there are many, each in several rows."""
    if pt.is_nested(column.type):
        return False
    kind = plain_type(column.type)
    distinct = _num_distinct(column)
    if distinct < _FEWEST_IDS or 2 * distinct > len(column):
        return False
    if not pt.is_string(kind):
        return pt.is_integer(kind) and _is_id(name)
    values = pc.drop_null(pc.unique(column))
    # Dates and decimals have digits, too, and separators that ids seldom have.
    is_id = pc.and_(
        pc.match_substring_regex(values, r"\d"), pc.invert(pc.match_substring_regex(values, r"\d[.,:/ ]\d"))
    )
    return (pc.sum(is_id).as_py() or 0) >= 0.9 * len(values)


def _stands_together(column: pa.ChunkedArray) -> bool:
    """Return True if the rows of nearly every value follow one another."""
    column = column.combine_chunks()
    num_runs = 1 + (pc.sum(pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))).as_py() or 0)
    return num_runs <= 1.1 * _num_distinct(column)


def _owns(rows: pa.Table, owner: str, episode: list[str]) -> bool:
    """Return True if each value of the episode column has one value of another column, and several have the same one."""
    if not episode or owner in episode:
        return False
    num_pairs = rows.group_by([episode[0], owner]).aggregate([]).num_rows
    return num_pairs == _num_distinct(rows[episode[0]]) > _num_distinct(rows[owner])


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
