"""Convert trajectories to columns, in memory and on disk alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.memory import STORE_FIX, refuse_beyond_memory
from rl_transformer.trajectories.blocks import EpisodeBlock, Episodes
from rl_transformer.trajectories.canonical_rows import canonical_block, canonical_rows, final_row, simplified
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.mixed_rows import num_numbers, numbers_of
from rl_transformer.trajectories.statistics import ObservationStatistics, StreamingStatistics
from rl_transformer.trajectories.trajectory import Trajectory
from rl_transformer.trajectories.wide_rows import WideStatistics, wide_layout

STEP_COLUMNS = ("observations", "actions", "rewards", "returns_to_go")
EPISODE_COLUMNS = ("offsets", "terminated", "truncated", "episode_returns", "final_observations")
# A store has one file per name, so an extra column with one of these names would overwrite it.
RESERVED = {*STEP_COLUMNS, *EPISODE_COLUMNS, "observation_mean", "observation_std"}
# Columns in the fingerprint: those that the source recorded. The others are computed from them.
_HASHED = ("observations", "actions", "rewards")
_BYTES_BETWEEN_LOOKS = 1 << 26
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ROWS_AT_ONCE = 1 << 18


def column_file(name: str) -> str:
    """Return the name of the file in a store that holds a column."""
    if _FILE_NAME.fullmatch(name):
        return f"{name}.npy"
    # Columns of tables may be called anything, also what leads out of the folder. The hash keeps two of them apart.
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name[:80]).strip("-_") or "column"
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.npy"


@dataclass(frozen=True)
class Summary:
    """Holds the values per episode and of the whole dataset that belong to the columns."""

    offsets: np.ndarray
    """(E + 1,) int64: episode e has the rows from offsets[e] up to, not including, offsets[e + 1]."""
    terminated: np.ndarray
    """(E,) bool: True where the task ended the episode."""
    truncated: np.ndarray
    """(E,) bool: True where a limit outside of the task ended the episode."""
    episode_returns: np.ndarray
    """(E,) float64: the sum of each episode's rewards."""
    final_observations: np.ndarray | None
    """(E, ...): the observation after each episode's last action; None if any of them was not recorded."""
    statistics: ObservationStatistics | None
    """Statistics of the observations; None for images, which are divided by 255 instead."""
    findings: list[Finding]
    fingerprint: str
    """SHA-256 over the canonical columns: the same for every format of the same data."""
    content: str = ""
    """Hash of the files of a store as they are now; empty for data that comes from elsewhere."""


class CollectedColumns:
    """Collects the rows of columns in memory, as long as there is room to join them at the end.

    Args:
        where: Where the data comes from, for messages.
    """

    def __init__(self, where: object) -> None:
        self._where = where
        self._parts: dict[str, list[np.ndarray]] = {}
        self._num_bytes = 0
        self._seen_bytes = 0  # when the system was last asked

    def append(self, name: str, rows: np.ndarray) -> None:
        """Append rows to a column.

        Raises:
            RLTransformerError: The memory is not enough for them all.
        """
        self._parts.setdefault(name, []).append(rows)
        self._num_bytes += rows.nbytes
        if self._num_bytes - self._seen_bytes >= _BYTES_BETWEEN_LOOKS:
            self._seen_bytes = self._num_bytes
            refuse_beyond_memory(self._num_bytes, "its episodes", where=self._where, fix=STORE_FIX)

    def joined(self) -> dict[str, np.ndarray]:
        """Return the columns."""
        # Once, at the end: growing an array episode by episode would copy the data over and over.
        return {name: np.concatenate(rows) for name, rows in self._parts.items()}


def build_columns(
    spec: DataSpec,
    trajectories: Episodes,
    append: Callable[[str, np.ndarray], None],
    checker: Checker | None = None,
) -> Summary:
    """Check every trajectory, pass its columns to ``append``, and return the summary.

    Columns are observations (float32 vectors or uint8 images; indices for wide spaces, see `wide_rows`), actions (float32 vectors, or int64 counted from 0),
    rewards (float64), returns_to_go (float32, summed in float64) and the extra columns of the trajectories. Episodes
    whose arrays do not fit each other are left out, with a finding.

    Args:
        spec: Spaces of the data.
        trajectories: The episodes; read once, one or one block at a time.
        append: Called with (name, rows) for every column of every episode or block, in order.
        checker: Collects the findings; None: a new one.
    """
    builder = ColumnBuilder(spec, append, checker or Checker(spec))
    episode = 0
    for item in trajectories:
        if isinstance(item, EpisodeBlock):
            builder.add_block(episode, item)
            episode += len(item)
        else:
            builder.add(episode, item)
            episode += 1
    return builder.summary()


class ColumnBuilder:
    """Converts one trajectory or block at a time, so that memory holds one of them and a few numbers per episode."""

    def __init__(self, spec: DataSpec, append: Callable[[str, np.ndarray], None], checker: Checker) -> None:
        spec.check_observations()
        observation = spec.observation_space
        self._spec = spec
        self._append = append
        self._checker = checker
        self._statistics = StreamingStatistics(num_numbers(observation)) if num_numbers(observation) else None
        if observation.is_wide:
            self._statistics = WideStatistics(observation)
        self._hashes = {name: hashlib.sha256() for name in _HASHED}
        self._lengths: list[int] = []
        self._ends: list[tuple[bool, bool]] = []
        self._returns: list[float] = []
        self._finals: list[np.ndarray | None] = []
        self._extra_names: set[str] | None = None

    def add(self, episode: int, trajectory: Trajectory) -> None:
        """Check a trajectory and append its rows.

        Raises:
            RLTransformerError: An extra column has a reserved name, or the extra columns differ from the first
                episode's.
        """
        trajectory = simplified(self._spec, trajectory)
        if not self._checker.check_structure(episode, trajectory):
            return
        rows = canonical_rows(self._spec, self._checker, episode, trajectory)
        if rows is None:
            return
        self._append_rows(rows, self._extras(episode, trajectory))
        self._checker.check_ends(episode, trajectory)
        self._lengths.append(len(rows["rewards"]))
        self._ends.append((trajectory.terminated, trajectory.truncated))
        self._returns.append(float(rows["rewards"].sum()))
        self._finals.append(final_row(self._spec, trajectory))

    def add_block(self, episode: int, block: EpisodeBlock) -> None:
        """Check the episodes of a block and append their rows, to the same result as one by one.

        Args:
            episode: Index of the first one.
            block: The episodes.

        Raises:
            RLTransformerError: As in `add`.
        """
        joined = simplified(self._spec, block.rows)
        rows = canonical_block(self._spec, joined, block)
        # Whatever is to be reported needs its episode and step, and rare data need not be fast.
        if rows is None:
            for index, trajectory in enumerate(block):
                self.add(episode + index, trajectory)
            return
        self._checker.check_block(episode, block, rows["observations"], rows["recorded"], rows["rewards"])
        self._append_rows({name: rows[name] for name in STEP_COLUMNS}, self._extras(episode, joined))
        self._lengths += np.diff(block.offsets).tolist()
        self._ends += zip(block.terminated.tolist(), block.truncated.tolist(), strict=True)
        borders = zip(block.offsets[:-1].tolist(), block.offsets[1:].tolist(), strict=True)
        rewards = rows["rewards"]
        self._returns += [float(rewards[first:last].sum()) for first, last in borders]
        self._finals += [None] * len(block)

    def add_written(self, columns: Mapping[str, np.ndarray], summary: Summary, checker: Checker) -> None:
        """Add the episodes of a store that another builder has written: nothing is appended, and no row is checked again.

        Args:
            columns: Its step columns.
            summary: Its summary.
            checker: The checker that saw its episodes.

        Raises:
            RLTransformerError: Its extra columns are not those of the episodes before.
        """
        # The order of additions, and so the last bits of the statistics, is that of one builder for all episodes.
        first = len(self._lengths)
        extras = {name: column[:1] for name, column in columns.items() if name not in STEP_COLUMNS}
        self._extras(first, Trajectory(columns["observations"][:1], columns["actions"][:1], np.zeros(1), extras=extras))
        for begin in range(0, len(columns["rewards"]), _ROWS_AT_ONCE):
            self._account({name: columns[name][begin : begin + _ROWS_AT_ONCE] for name in _HASHED})
        ends = np.stack([summary.terminated, summary.truncated], axis=1)
        lengths = np.diff(summary.offsets)
        self._checker.join(checker, first, lengths, ends)
        self._lengths += lengths.tolist()
        self._ends += ends.tolist()
        self._returns += summary.episode_returns.tolist()
        finals = summary.final_observations
        self._finals += [None] * len(lengths) if finals is None else list(finals)

    def _append_rows(self, rows: dict[str, np.ndarray], extras: dict[str, np.ndarray]) -> None:
        """Append rows to the columns, and account for them."""
        for name, values in {**rows, **extras}.items():
            self._append(name, values)
        self._account(rows)

    def _account(self, rows: dict[str, np.ndarray]) -> None:
        """Add rows to hashes and statistics."""
        # Hashes grow column by column while the data streams past. They are taken after conversion, so HDF5, Arrow and
        # a store of the same episodes have the same fingerprint.
        for name in _HASHED:
            self._hashes[name].update(np.ascontiguousarray(rows[name]).data)
        # An episode with NaN is an error anyway, and would turn the statistics that `rlt inspect` shows into NaN.
        if self._statistics is not None:
            space = self._spec.observation_space
            numbers = rows["observations"] if space.is_wide else numbers_of(space, rows["observations"])
            if np.isfinite(numbers).all():
                self._statistics.add(numbers)

    def _extras(self, episode: int, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Return the extra columns of an episode; every episode must have the same ones, or rows would not line up."""
        extras = {name: np.asarray(values) for name, values in trajectory.extras.items()}
        if reserved := sorted(set(extras) & RESERVED):
            raise RLTransformerError(
                f"{', '.join(reserved)} is a reserved name: the library computes it, from rewards and episode ends",
                where=self._spec.source,
                fix="leave it out, or give it another name",
            )
        if self._extra_names is not None and set(extras) != self._extra_names:
            first = sorted(self._extra_names)
            raise RLTransformerError(
                f"episode {episode} has the extra columns {sorted(extras)}, and the first one has {first}",
                where=self._spec.source,
                fix="give every episode the same arrays",
            )
        self._extra_names = set(extras)
        return extras

    def summary(self) -> Summary:
        """Return the summary of everything that was added."""
        statistics = None if self._statistics is None else self._statistics.result()
        if self._lengths:
            self._checker.check_dataset(None if statistics is None else self._std_of_numbers(statistics))
        flags = np.array(self._ends, dtype=bool).reshape(-1, 2)  # (0, 2) if no episode was usable
        offsets = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        finals = [final for final in self._finals if final is not None]
        return Summary(
            offsets=offsets,
            terminated=flags[:, 0],
            truncated=flags[:, 1],
            episode_returns=np.array(self._returns),
            final_observations=np.stack(finals) if finals and len(finals) == len(self._finals) else None,
            statistics=statistics,
            findings=self._checker.findings,
            fingerprint=self._fingerprint(offsets, flags),
        )

    def _std_of_numbers(self, statistics: ObservationStatistics) -> np.ndarray:
        """Return the standard deviations; NaN for categories, of which most are rare and one may be kept for later."""
        std = statistics.std.copy()
        if self._spec.table is not None:
            std[sum(width for _, width in self._spec.table.numbers) :] = np.nan
        elif self._spec.observation_space.is_wide:
            features = wide_layout(self._spec.observation_space).number_features
            std = np.full_like(std, np.nan)
            std[features] = statistics.std[features]
        return std

    def _fingerprint(self, offsets: np.ndarray, flags: np.ndarray) -> str:
        """Return a hash of recorded columns, episode borders and ends; extra columns are not part of it."""
        digests = {name: value.hexdigest() for name, value in self._hashes.items()}
        for name, values in (("offsets", offsets), ("ends", flags)):
            digests[name] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
