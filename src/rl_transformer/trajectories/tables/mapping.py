"""Say which column of a table is what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path

from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import read_yaml
from rl_transformer.runtime.types import JsonMapping, JsonObject

DECIMAL_COMMA = "decimal_comma"
"""Type of the numbers of a text file that have a comma where others have a point."""
_LISTS = ("episode", "observe", "categorical", "action", "keep")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class ColumnMapping:
    """Names the columns of a table whose rows are steps. Names of columns may be globs where several are meant."""

    episode: tuple[str, ...] = ()
    """Columns whose values, taken together, name the episode of a row; none: all rows are one sequence."""
    order: str | None = None
    """Column that orders the rows of an episode, such as a time; None: the rows are in order."""
    gap: str | None = None
    """An episode also ends before a pause of more than this: 30m, 12h, 2d, or a number in the unit of ``order``."""
    observe: tuple[str, ...] = ()
    """Numbers that the policy sees."""
    categorical: tuple[str, ...] = ()
    """Names that the policy sees, such as ids and words. One of these that is also an action makes the action discrete."""
    action: tuple[str, ...] = ()
    """Floating-point columns are continuous actions; integers, booleans, texts and categorical columns discrete ones."""
    allowed: str | None = None
    """Columns, one per discrete action, that tell which actions were allowed at a step."""
    reward: str | None = None
    terminated: str | None = None
    """True at the last row of an episode that the task itself ended. Other episodes count as cut off."""
    truncated: str | None = None
    """True at the last row of an episode that was cut off; the next row begins another one."""
    keep: tuple[str, ...] = ()
    """Columns that no policy sees, kept beside the episodes: entities and times for `splits.compare_splits`, propensities."""
    split: str | None = None
    """time:DATE or entity:SHARE: the episodes to hold out; see `tables.split`."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Types of columns of text files that are not what they look like, such as ``zip: string``."""

    @classmethod
    def from_values(cls, values: JsonMapping, *, where: object) -> ColumnMapping:
        """Return the mapping in the values of a YAML file or of a call; lists may be given as "a,b" or as one name.

        Raises:
            RLTransformerError: A field is unknown or of another type.
        """
        known = [item.name for item in fields(cls)]
        checked: JsonObject = {}
        for name, value in values.items():
            if name not in known:
                fix = f"{did_you_mean(str(name), known)}the fields are {', '.join(known)}"
                if name == "entity":
                    fix = "name the column of the entities first in episode, as in episode: [customer, session]"
                raise RLTransformerError(f"there is no field {name!r} in a mapping", where=where, fix=fix)
            if value is None or value == [] or value == "":
                continue
            if name == "types":
                checked[name] = _types(value, where)
            elif name in _LISTS:
                checked[name] = _names(value, f"{where}: {name}")
            elif isinstance(value, str | int | float) and not isinstance(value, bool):
                checked[name] = str(value)
            else:
                raise RLTransformerError(f"is {value!r:.100}", where=f"{where}: {name}", fix="give one name as text")
        return cls(**checked)

    @classmethod
    def from_file(cls, path: str | Path) -> ColumnMapping:
        """Return the mapping in a YAML file.

        Raises:
            RLTransformerError: There is no such file, or it is no mapping.
        """
        return cls.from_values(read_yaml(user_path(path), fix="write it with rlt convert DATA --suggest"), where=path)

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values of the fields that are set."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in values.items() if value}

    @property
    def gap_seconds(self) -> float | None:
        """The gap in seconds, or None if it is a plain number or not set."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)", self.gap or "")
        return float(found[1]) * _UNITS[found[2]] if found else None


@dataclass(frozen=True)
class Columns:
    """The columns that a mapping selects from a table, without globs."""

    episode: list[str]
    order: str | None
    numbers: list[str]
    categories: list[str]
    action: list[str]
    named_actions: list[str]
    """Those of the action that are listed as categorical, and therefore discrete."""
    allowed: list[str]
    reward: str | None
    terminated: str | None
    truncated: str | None
    keep: list[str]

    @property
    def all(self) -> list[str]:
        """Every column once, in a fixed order."""
        single = [self.order, self.reward, self.terminated, self.truncated]
        several = [*self.episode, *self.numbers, *self.categories, *self.action, *self.allowed, *self.keep]
        return list(dict.fromkeys([*several, *(name for name in single if name)]))


def select_columns(mapping: ColumnMapping, names: Sequence[str], *, where: object) -> Columns:
    """Return the columns of a table that a mapping selects.

    Args:
        mapping: The mapping.
        names: Columns of the table.
        where: The table, for messages.

    Raises:
        RLTransformerError: A name matches no column, or no action or observation is named.
    """
    for part, what in (("action", "the action"), ("observe", "what the policy sees")):
        if not getattr(mapping, part) and not (part == "observe" and mapping.categorical):
            raise RLTransformerError(
                f"the mapping does not say which columns are {what}",
                where=where,
                fix=f"pass --{part} COLUMN, or a mapping with {part}; rlt convert DATA --suggest prints a first one; the "
                f"columns are {_listed(names)}",
            )

    def match(part: str) -> list[str]:
        patterns = getattr(mapping, part)
        return _match([patterns] if isinstance(patterns, str) else patterns or (), names, f"{where}: {part}")

    action = match("action")
    names_of_values = match("categorical")
    categories = [name for name in names_of_values if name not in action]
    if mapping.gap and mapping.order is None:
        raise RLTransformerError(
            "there is no order column", where="gap", fix="name one with order, or leave the gap out"
        )
    single = {part: _one(match(part), part, where) for part in ("order", "reward", "terminated", "truncated")}
    # What ends or names an episode is no observation, even where a glob of observations matches it.
    taken = {*match("episode"), *action, *categories, *match("allowed"), *single.values()}
    exact = {name for name in mapping.observe if name in names}
    numbers = [name for name in match("observe") if name not in taken or name in exact]
    named_actions = [name for name in names_of_values if name in action]
    return Columns(
        match("episode"),
        numbers=numbers,
        categories=categories,
        action=action,
        named_actions=named_actions,
        allowed=match("allowed"),
        keep=match("keep"),
        **single,
    )


def _match(patterns: Iterable[str], names: Sequence[str], where: str) -> list[str]:
    """Return the columns that match any pattern, in the order of the patterns and then of the table."""
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            fix = f"{did_you_mean(pattern, names)}the columns are {_listed(names)}"
            raise RLTransformerError(f"no column is called {pattern!r}", where=where, fix=fix)
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _one(names: list[str], part: str, where: object) -> str | None:
    if len(names) > 1:
        fix = "name one column"
        raise RLTransformerError(f"{len(names)} columns match: {_listed(names)}", where=f"{where}: {part}", fix=fix)
    return names[0] if names else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def _names(value: object, where: str) -> tuple[str, ...]:
    """Return names given as one text, perhaps with commas, or as a list of such."""
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    names: list[str] = []
    for item in given:
        if not isinstance(item, str):
            raise RLTransformerError(
                f"{item!r:.100} is not the name of a column", where=where, fix="give names as text"
            )
        names += [part.strip() for part in item.split(",") if part.strip()]
    return tuple(names)


def _types(value: object, where: object) -> dict[str, str]:
    allowed = ("string", "int64", "double", "bool", DECIMAL_COMMA)
    if not isinstance(value, Mapping) or not all(item in allowed for item in value.values()):
        fix = f"give a mapping from columns to one of {', '.join(allowed)}"
        raise RLTransformerError(f"is {value!r:.100}", where=f"{where}: types", fix=fix)
    return {str(name): str(kind) for name, kind in value.items()}
