"""Turn rows of a table into episodes: sort them, find where episodes begin and end, and convert their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.action_masks import ALLOWED, illegal_steps
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.table_spec import NUMBERS, TableSpec
from rl_transformer.trajectories.tables.arrow import pc
from rl_transformer.trajectories.tables.mapping import ColumnMapping, Columns
from rl_transformer.trajectories.tables.values import (
    INFINITE,
    MISSING,
    category_column,
    category_indices,
    flags,
    kept_values,
    missing_names,
    numbers,
    order_values,
)
from rl_transformer.trajectories.tables.videos import VideoColumn
from rl_transformer.trajectories.trajectory import Trajectory

DUPLICATE = "same as another row"
NOT_ALLOWED = "action that was not allowed"
UNKNOWN_ACTION = "unknown action in {}"
Drop = Callable[[np.ndarray, str], None]
"""Marks rows (N,) as being in no episode, with the reason."""


@dataclass(frozen=True)
class Encoded:
    """Episodes, and the rows that are in none."""

    block: EpisodeBlock
    last: np.ndarray
    """(E,) the last value of the order column of each episode; their number where there is none."""
    first_rows: np.ndarray
    """(E,) a row of the sorted table in each episode."""
    rows: pa.Table
    """The sorted rows."""
    dropped: np.ndarray
    """Rows of ``rows`` that are in no episode."""
    reasons: list[str]
    """The reason for each of them."""
    num_tied: int
    """Rows in episodes whose episode key and moment another one before them has, with other values."""
    dropped_at: np.ndarray
    """Where each of them was among the rows that were handed over."""


@dataclass(frozen=True)
class Encoder:
    """Converts whole episodes of rows.

    Args:
        spec: Spaces and meaning of the values; see `fit`.
        columns: The columns that a mapping selected.
        mapping: The mapping.
        where: The table, for messages.
    """

    spec: DataSpec
    columns: Columns
    mapping: ColumnMapping
    where: str
    videos: Mapping[str, VideoColumn] = field(default_factory=dict)
    """Columns whose values are places of frames, which `with_frames` decodes."""

    @property
    def table(self) -> TableSpec:
        """What the columns mean."""
        if self.spec.table is None:
            raise ValueError("the spec is not that of a table")
        return self.spec.table

    def encode(self, rows: pa.Table) -> Encoded:
        """Return the episodes in rows that hold all rows of each of them, in any order.

        Raises:
            RLTransformerError: A value is not of its column's kind.
        """
        at = row_order(rows, self.columns)
        rows = rows.combine_chunks() if at is None else rows.take(at).combine_chunks()
        num_rows = len(rows)
        reason = np.zeros(num_rows, np.int32)  # 0: the row is kept
        reasons = [""]

        def drop(bad: np.ndarray, why: str) -> None:
            new = bad & (reason == 0)
            if new.any():
                reasons.append(why)
                reason[new] = len(reasons) - 1

        same_episode, order = self._neighbors(rows)
        for name in (*self.columns.episode, *([self.columns.order] if self.columns.order else [])):
            drop(missing_names(rows[name]), MISSING.format(name))
        values = self._values(rows, drop)
        # Rows of one moment follow one another.
        tied = np.zeros(num_rows, bool)
        if order is not None:
            tied[1:] = same_episode[1:] & (order[1:] == order[:-1])
        moment = np.cumsum(~tied)
        drop(_duplicates(rows, self.columns, tied, moment), DUPLICATE)
        segment, terminated, truncated = self._segments(rows, same_episode, order, reason == _index(reasons, DUPLICATE))
        kept = np.flatnonzero(reason == 0)
        dropped = np.flatnonzero(reason)
        # An episode may have lost all of its rows, so its number is not its position.
        present, starts = np.unique(segment[kept], return_index=True)
        offsets = np.append(starts, len(kept)).astype(np.int64)
        block = EpisodeBlock(_take(values, kept), offsets, terminated[present], truncated[present])
        last = kept[offsets[1:] - 1] if len(present) else np.zeros(0, np.int64)
        last_order = last if order is None else order[last]
        first_rows = kept[offsets[:-1]] if len(present) else last
        num_tied = int(np.count_nonzero(np.diff(moment[kept]) == 0))
        dropped_at = dropped if at is None else at.to_numpy()[dropped]
        whys = [reasons[i] for i in reason[dropped]]
        return Encoded(block, last_order, first_rows, rows, dropped, whys, num_tied, dropped_at)

    def _neighbors(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
        """Return whether each row is of the same episode key as the one before, and the values of the order column."""
        same = np.ones(len(rows), bool)
        same[:1] = False
        for name in self.columns.episode:
            same[1:] &= _equals_previous(rows[name])
        if self.columns.order is None:
            return same, None
        return same, order_values(rows[self.columns.order], self.columns.order, where=self.where)[0]

    def _segments(
        self, rows: pa.Table, same: np.ndarray, order: np.ndarray | None, ignored: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the number of every row's episode, and for each episode whether it was terminated and truncated."""
        num_rows = len(rows)
        names = {"terminated": self.columns.terminated, "truncated": self.columns.truncated}
        ends = {
            kind: np.zeros(num_rows, bool) if name is None else flags(rows[name], name, where=self.where) & ~ignored
            for kind, name in names.items()
        }
        starts = ~same
        starts[1:] |= (ends["terminated"] | ends["truncated"])[:-1]
        if self.mapping.gap and order is not None:
            starts[1:] |= np.diff(order) > self._gap(rows)
        segment = np.cumsum(starts) - 1
        num_segments = int(segment[-1]) + 1 if num_rows else 0
        terminated = np.bincount(segment[ends["terminated"]], minlength=num_segments) > 0
        # What no flag ended was cut off: by the gap, or because the log stops there.
        return segment, terminated, ~terminated

    def _gap(self, rows: pa.Table) -> float:
        """Return the gap in the unit of the order column.

        Raises:
            RLTransformerError: A duration is given for plain numbers, or a number for times.
        """
        order = str(self.columns.order)
        per_second = order_values(rows[order].slice(0, 0), order, where=self.where)[1]
        seconds = self.mapping.gap_seconds
        try:
            plain = None if seconds is not None else float(str(self.mapping.gap))
        except ValueError:
            plain = np.nan
        if per_second is not None and seconds is not None:
            return seconds * per_second
        if per_second is None and plain is not None and plain > 0:
            return plain
        unit = "a duration such as 30m, 12h or 2d" if per_second else f"a number in the unit of {order}"
        raise RLTransformerError(
            f"{self.mapping.gap!r} does not fit the column {order}", where="gap", fix=f"give {unit}"
        )

    def _values(self, rows: pa.Table, drop: Drop) -> Trajectory:
        """Return all rows converted; those that cannot be are dropped, and their values mean nothing."""
        table = self.table
        parts = []
        for name, width in table.numbers:
            parts.append(self._numbers(rows, name, width, drop))
        vector = np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))
        observations: Nested = vector
        if table.categories or table.images:
            observations = {NUMBERS: vector} if parts else {}
            for name, known in table.categories:
                observations[name] = category_indices(rows[name], known) + 1  # 0: missing or unseen
            for name, _ in table.images:
                observations[name] = self._numbers(rows, name, 3, drop)
        actions = self._actions(rows, drop)
        extras = {}
        if table.allowed:
            masks = [flags(rows[name], name, where=self.where) for name in table.allowed]
            extras[ALLOWED] = np.stack(masks, axis=1)
            drop(illegal_steps(self.spec.action_space, actions, extras[ALLOWED]), NOT_ALLOWED)
        for name in self.columns.keep:
            extras[name], missing = kept_values(rows[name], name, where=self.where)
            drop(missing, MISSING.format(name))
        return Trajectory(observations, actions, self._rewards(rows, drop), extras=extras)

    def _actions(self, rows: pa.Table, drop: Drop) -> np.ndarray:
        """Return the actions (N,) or (N, A) in the values of the action space."""
        if not self.table.action_values:
            columns = [self._numbers(rows, name, width, drop) for name, width in self.table.action]
            return np.concatenate(columns, axis=1)
        indices = []
        for (name, _), known in zip(self.table.action, self.table.action_values, strict=True):
            found = category_indices(rows[name], known)
            missing = category_column(rows[name]).is_null().to_numpy().astype(bool)
            drop(missing, MISSING.format(name))
            drop((found < 0) & ~missing, UNKNOWN_ACTION.format(name))
            indices.append(np.maximum(found, 0))
        first = self.spec.action_space.first_values
        return indices[0] + first if len(indices) == 1 else np.stack(indices, axis=1) + first

    def _rewards(self, rows: pa.Table, drop: Drop) -> np.ndarray:
        """Return the rewards (N,) float64; zeros without a reward column."""
        name = self.columns.reward
        if name is None:
            return np.zeros(len(rows))
        return self._numbers(rows, name, 1, drop)[:, 0]

    def _numbers(self, rows: pa.Table, name: str, width: int, drop: Drop) -> np.ndarray:
        """Return a column of numbers (N, width); rows in which one is missing or infinite are dropped."""
        values, missing = numbers(rows[name], width, name, where=self.where)
        drop(missing, MISSING.format(name))
        drop(np.asarray(np.isinf(values).any(axis=1)), INFINITE.format(name))
        return values


def take_episodes(block: EpisodeBlock, chosen: np.ndarray) -> EpisodeBlock:
    """Return some episodes of a block, given as booleans (E,)."""
    if chosen.all():
        return block
    lengths = np.diff(block.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[chosen])]).astype(np.int64)
    rows = _take(block.rows, np.flatnonzero(np.repeat(chosen, lengths)))
    return EpisodeBlock(rows, offsets, block.terminated[chosen], block.truncated[chosen])


def row_order(rows: pa.Table, columns: Columns) -> pa.Array | None:
    """Return the rows' order by episode and order, in which equal ones stay as they are; None if nothing orders them."""
    keys = [(name, "ascending") for name in (*columns.episode, *([columns.order] if columns.order else []))]
    return pc.sort_indices(rows.select([name for name, _ in keys]), sort_keys=keys) if keys else None


def _equals_previous(column: pa.ChunkedArray) -> np.ndarray:
    """Return whether each value but the first equals the one before it, (N - 1,); two nulls are equal."""
    size = len(column)
    later, earlier = column.slice(1), column.slice(0, max(size - 1, 0))
    equal = pc.fill_null(pc.equal(later, earlier), False)
    both = pc.and_(later.is_null(), earlier.is_null())
    return pc.or_(equal, both).to_numpy().astype(bool)


def _duplicates(rows: pa.Table, columns: Columns, tied: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return the rows (N,) that equal an earlier one of their episode and moment in every column of the mapping."""
    result = np.zeros(len(rows), bool)
    if not tied.any():
        return result
    # Only rows of one moment are compared, which are few.
    involved = np.flatnonzero(tied | np.append(tied[1:], False))
    seen: set[tuple] = set()
    contents = rows.select(columns.all).take(pa.array(involved)).to_pylist()
    for row, group, content in zip(involved, moment[involved], contents, strict=True):
        key = (int(group), *(repr(value) for value in content.values()))
        result[row] = key in seen
        seen.add(key)
    return result


def _take(values: Trajectory, rows: np.ndarray) -> Trajectory:
    """Return the rows of a joined trajectory, (N, ...)."""
    observations = values.observations
    if isinstance(observations, dict):
        observations = {name: part[rows] for name, part in observations.items()}
    else:
        observations = observations[rows]
    extras = {name: part[rows] for name, part in values.extras.items()}
    return Trajectory(observations, values.actions[rows], values.rewards[rows], extras=extras)


def _index(reasons: list[str], why: str) -> int:
    return reasons.index(why) if why in reasons else -1
