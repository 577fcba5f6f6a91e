"""Learn from a table's training rows what its values mean: sizes of lists, categories, actions and their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.action_masks import ALLOWED
from rl_transformer.trajectories.columns import RESERVED
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import GUESSED_SPACE, Finding
from rl_transformer.trajectories.guessed_spaces import guessed_bounds
from rl_transformer.trajectories.table_spec import TableSpec, Value
from rl_transformer.trajectories.tables.mapping import ColumnMapping, Columns
from rl_transformer.trajectories.tables.values import (
    check_category,
    check_number,
    flags,
    kept_values,
    list_width,
    merge_categories,
    numbers,
    order_values,
    plain_type,
    sorted_values,
)
from rl_transformer.trajectories.tables.videos import VideoColumn, video_columns

# Integers within this range are taken as actions counted from the smallest one, also where some of them never occur.
_MOST_COUNTED = 1024
_MOST_ACTIONS = 100_000


@dataclass
class TableFit:
    """Sees the training rows batch by batch and keeps a few numbers per column.

    Args:
        columns: The columns that a mapping selected.
        schema: Types of the table's columns.
        categorical: Names or globs that the mapping lists as categorical.
        where: The table, for messages.
    """

    columns: Columns
    schema: pa.Schema
    mapping: ColumnMapping
    where: str
    widths: dict[str, int] = field(default_factory=dict)
    seen: dict[str, pa.Array] = field(default_factory=dict)
    extents: dict[str, tuple[np.ndarray | float, np.ndarray | float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.videos  # what cannot be decoded is found before hours of work
        for name in self.columns.numbers:
            check_number(self.schema.field(name).type, name, where=self.where)
        for name in (*self.columns.categories, *self.discrete):
            check_category(self.schema.field(name).type, name, where=self.where)
        self._check_single_columns()
        self._check_kept()
        if self.discrete and len(self.discrete) < len(self.columns.action):
            others = [name for name in self.columns.action if name not in self.discrete]
            raise RLTransformerError(
                f"{', '.join(self.discrete)} is discrete and {', '.join(others)} is continuous",
                where=f"{self.where}: action",
                fix=f"list {', '.join(others)} as categorical too, or store the others as floating-point numbers",
            )
        if self.columns.allowed and len(self.discrete) != 1:
            raise RLTransformerError(
                "allowed actions need one discrete action column",
                where=f"{self.where}: allowed",
                fix=f"leave it out, or list the action as categorical: --categorical {self.columns.action[0]}",
            )

    def _check_kept(self) -> None:
        """Check names and types of the columns that are kept beside the episodes."""
        empty = self.schema.empty_table()
        for name in self.columns.keep:
            kept_values(empty[name], name, where=self.where)
            # A store has columns of these names, and a column called allowed would be taken for masks of actions.
            if name in RESERVED or name == ALLOWED:
                fix = "give the column another name in the table, or leave it out"
                raise RLTransformerError(
                    f"a column called {name!r} cannot be kept", where=f"{self.where}: keep", fix=fix
                )

    def _check_single_columns(self) -> None:
        """Check the types of reward, order and flags; values are checked when they are read."""
        if self.columns.reward is not None:
            check_number(self.schema.field(self.columns.reward).type, self.columns.reward, where=self.where)
        empty = self.schema.empty_table()
        if self.columns.order is not None:
            order_values(empty[self.columns.order], self.columns.order, where=self.where)
        for name in (*self.columns.allowed, self.columns.terminated, self.columns.truncated):
            if name is not None:
                flags(empty[name], name, where=self.where)

    @cached_property
    def videos(self) -> dict[str, VideoColumn]:
        """The observed columns that stand for frames of videos."""
        return video_columns(self.schema, self.columns.numbers, where=self.where)

    @property
    def discrete(self) -> list[str]:
        """The action columns that are discrete."""
        kinds = {name: plain_type(self.schema.field(name).type) for name in self.columns.action}
        return [name for name, kind in kinds.items() if name in self.columns.named_actions or not _is_continuous(kind)]

    @property
    def is_continuous(self) -> bool:
        """Return True if actions are continuous, and have bounds to learn."""
        return not self.discrete

    @property
    def _continuous(self) -> list[str]:
        return [] if self.discrete else self.columns.action

    def add(self, rows: pa.Table) -> None:
        """Look at the next rows.

        Raises:
            RLTransformerError: Lists of different lengths, or too many categories.
        """
        for name in (*self.columns.numbers, *self._continuous):
            self._add_width(name, list_width(rows[name], name, where=self.where))
        for name in (*self.columns.categories, *self.discrete):
            self.seen[name] = merge_categories(self.seen.get(name), rows[name], name, where=self.where)

    def add_actions(self, rows: pa.Table) -> None:
        """Look at the continuous actions of the next rows, held-out ones included: bounds are those of the device."""
        for name in self._continuous:
            if not self.widths.get(name):
                continue  # no training row so far, or nothing but nulls
            values = numbers(rows[name], self.widths.get(name, 1), name, where=self.where)[0]
            finite = np.where(np.isfinite(values), values, np.nan)
            low = np.fmin.reduce(finite, axis=0, initial=np.inf)
            self._add_extent(name, low, np.fmax.reduce(finite, axis=0, initial=-np.inf))

    def join(self, other: TableFit) -> None:
        """Take over what was learned from other rows of the same table; the order does not matter.

        Raises:
            RLTransformerError: As in `add`.
        """
        for name, width in other.widths.items():
            self._add_width(name, width)
        for name, values in other.seen.items():
            self.seen[name] = merge_categories(self.seen.get(name), pa.chunked_array([values]), name, where=self.where)
        for name, (low, high) in other.extents.items():
            self._add_extent(name, low, high)

    def _add_width(self, name: str, width: int) -> None:
        if width and self.widths.setdefault(name, width) != width:
            problem = f"holds lists of {self.widths[name]} and of {width} numbers"
            raise RLTransformerError(problem, where=f"{self.where}: {name}", fix="give lists of one length")

    def _add_extent(self, name: str, low: np.ndarray | float, high: np.ndarray | float) -> None:
        before = self.extents.get(name, (np.inf, -np.inf))
        self.extents[name] = (np.fmin(before[0], low), np.fmax(before[1], high))

    def result(self, source: str) -> tuple[DataSpec, list[Finding]]:
        """Return the spaces of the rows seen so far, with what they mean, and findings about what was guessed.

        Raises:
            RLTransformerError: The actions cannot be told apart, or none was seen.
        """
        notes: list[Finding] = []
        values: tuple[tuple[Value, ...], ...] = ()
        low = high = np.zeros(0)
        if self.discrete:
            values = tuple(self._action_values(name, notes) for name in self.discrete)
        else:
            nothing = (np.inf, -np.inf)  # a column of empty lists, or no row at all
            extents = [self.extents.get(name, nothing) for name in self.columns.action]
            lows = np.concatenate([np.atleast_1d(low) for low, _ in extents])
            highs = np.concatenate([np.atleast_1d(high) for _, high in extents])
            if not np.isfinite(lows).all():
                where = f"{self.where}: {', '.join(self.columns.action)}"
                raise RLTransformerError("an action column holds no number", where=where, fix="leave it out")
            low, high = guessed_bounds(lows, highs)
            bounds = ", ".join(f"{a:g} ... {b:g}" for a, b in zip(low[:8], high[:8], strict=True))
            notes.append(
                Finding("info", GUESSED_SPACE, "actions", f"bounds {bounds} are taken from the data", "check them", 1)
            )
        table = TableSpec(
            numbers=tuple((name, self.widths.get(name, 1)) for name in self.columns.numbers if name not in self.videos),
            categories=tuple((name, sorted_values(self.seen[name])) for name in self.columns.categories),
            action=tuple((name, self.widths.get(name, 1)) for name in self.columns.action),
            action_values=values,
            allowed=tuple(self.columns.allowed),
            mapping=self.mapping.to_dict(),
            images=tuple((name, video.shape) for name, video in self.videos.items()),
        )
        return DataSpec(table.observation_space, table.action_space(low, high), source, table=table), notes

    def _action_values(self, name: str, notes: list[Finding]) -> tuple[Value, ...]:
        """Return the values of a discrete action column by their index."""
        seen = sorted_values(self.seen[name])
        if not seen:
            raise RLTransformerError("holds no action", where=f"{self.where}: {name}", fix="name another column")
        if self.columns.allowed:
            return self._named_by_masks(name, seen)
        if len(seen) > _MOST_ACTIONS:
            raise RLTransformerError(
                f"has {len(seen)} different values, and a policy would have an output for each",
                where=f"{self.where}: {name}",
                fix="store it as floating-point numbers if it is continuous, or group its values",
            )
        if type(seen[0]) is int and type(seen[-1]) is int and seen[-1] - min(seen[0], 0) < _MOST_COUNTED:
            seen = tuple(range(min(seen[0], 0), seen[-1] + 1))
        problem = f"{len(seen)} actions were found in {name}; other ones may exist"
        notes.append(Finding("info", GUESSED_SPACE, "actions", problem, "check that none is missing", 1))
        return seen

    def _named_by_masks(self, name: str, seen: tuple[Value, ...]) -> tuple[Value, ...]:
        """Return the action of each column of allowed actions, which also tell of actions that were never taken."""
        columns = self.columns.allowed
        # mask_red and mask_blue name the actions red and blue; other columns are those of actions 0, 1, 2, ...
        shared = len(_common_prefix(columns))
        endings = [column[shared:] for column in columns]
        by_text = {str(value): value for value in seen}
        if set(by_text) <= set(endings):
            kind = type(seen[0])
            texts = {ending: by_text.get(ending) for ending in endings}
            return tuple(kind(ending) if value is None else value for ending, value in texts.items())
        if all(type(value) is int and 0 <= value < len(columns) for value in seen):
            return tuple(range(len(columns)))
        unknown = [value for value in by_text if value not in endings]
        raise RLTransformerError(
            f"there is no column of allowed actions for {', '.join(unknown[:5])}; they are {', '.join(columns[:10])}",
            where=f"{self.where}: {name}",
            fix="name them so that each ends with its action, such as mask_red, or number the actions from 0",
        )


def _is_continuous(kind: pa.DataType) -> bool:
    """Return True for floating-point numbers, decimals and durations, and for lists of them."""
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _is_continuous(kind.value_type)
    return pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_duration(kind)


def _common_prefix(names: list[str]) -> str:
    """Return the text that all names begin with, up to a separator if there is one, so that 10 and 11 keep their 1."""
    first, last = min(names), max(names)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[:size]
    cut = max(prefix.rfind(mark) for mark in "_.-:/ ")
    return prefix[: cut + 1] if cut >= 0 else prefix
