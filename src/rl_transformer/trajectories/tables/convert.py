"""Convert a table to a store, or open it as a dataset: rows in, episodes out, and an account of every row."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk, log
from rl_transformer.runtime.files import refuse_content, translate_write_errors, write_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding
from rl_transformer.trajectories.store_files import store_folder, write_columns
from rl_transformer.trajectories.tables.encode import Encoded, Encoder, take_episodes
from rl_transformer.trajectories.tables.fit import TableFit
from rl_transformer.trajectories.tables.inputs import TableInput
from rl_transformer.trajectories.tables.mapping import ColumnMapping, select_columns
from rl_transformer.trajectories.tables.row_buckets import MemoryBuckets, RowBuckets, in_memory, on_disk
from rl_transformer.trajectories.tables.split import Split

DROPPED_ROWS = "rows in no episode"
TIED_ROWS = "several rows of one moment"


@dataclass
class TableEpisodes:
    """The episodes of a table, and an account of its rows.

    Args:
        buckets: The rows.
        encoder: Converts them.
        split: The episodes to hold out, if any.
        notes: Findings; a note about dropped rows is added when they are known.
    """

    buckets: RowBuckets
    encoder: Encoder
    split: Split | None
    notes: list[Finding]
    num_steps: Counter[str] = field(default_factory=Counter)
    """Steps of each part."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows in no episode, by reason."""
    num_tied: int = 0
    """Rows of the episode and moment of another one, with other values."""
    dropped_at: dict[str, list[int]] = field(default_factory=dict)
    """The first of these rows by reason, counted from 0 over all files in order; only known of tables in memory."""

    def blocks(self, part: str, dropped_rows: DroppedRows | None = None) -> Iterator[EpisodeBlock]:
        """Yield the episodes of a part: ``training`` or ``held out``.

        Rows in no episode are counted with the training part.
        """
        is_empty = True
        for rows in self.buckets:
            encoded = self.encoder.encode(rows)
            if part == "training":
                self.dropped.update(encoded.reasons)
                self.num_tied += encoded.num_tied
                if isinstance(self.buckets, MemoryBuckets):
                    # Buckets on disk have lost the order of the files; their dropped rows are written with the reason.
                    for reason in self.dropped:
                        rows = encoded.dropped_at[np.array(encoded.reasons) == reason]
                        self.dropped_at[reason] = np.sort(rows)[:MAX_POSITIONS].tolist()
                if dropped_rows is not None:
                    dropped_rows.add(encoded)
            held_out = np.zeros(len(encoded.block), bool) if self.split is None else self.split.held_out(encoded)
            chosen = take_episodes(encoded.block, held_out if part == "held out" else ~held_out)
            self.num_steps[part] += int(chosen.offsets[-1])
            if len(chosen):
                is_empty = False
                yield chosen
        if is_empty and self.split is not None:
            which = "held out" if part == "held out" else "left to learn from"
            raise RLTransformerError(f"no episode is {which}", where="split", fix="choose another date or share")
        if part == "training" and self.dropped:
            self.notes.append(self._note())
        if part == "training" and self.num_tied:
            order = self.encoder.columns.order
            problem = f"have the episode and the {order} of another row, and other values; they stay in the order of the table"
            fix = "nothing, if that is their order; otherwise name an order that tells them apart, or remove the wrong ones"
            self.notes.append(Finding("warning", TIED_ROWS, "rows", problem, fix, self.num_tied))

    def _note(self) -> Finding:
        counts = self.dropped.most_common()
        first = {reason: f" (first: row {rows[0]})" for reason, rows in self.dropped_at.items()}
        reasons = ", ".join(f"{count} {reason}{first.get(reason, '')}" for reason, count in counts)
        problem = f"are in no episode: {reasons}"
        fix = "nothing, if that is right; otherwise repair these rows, or change the mapping"
        positions = [{"row": row} for row in sorted(itertools.chain(*self.dropped_at.values()))[:MAX_POSITIONS]]
        return Finding("warning", DROPPED_ROWS, "rows", problem, fix, self.dropped.total(), positions)


def open_table(table: TableInput, mapping: ColumnMapping, *, source: str) -> tuple[DataSpec, TableEpisodes]:
    """Return the spaces and the episodes of a table, which is held in memory.

    Raises:
        RLTransformerError: The mapping does not fit the table, or its split holds episodes out.
    """
    if mapping.split:
        raise RLTransformerError(
            "a split makes two data sets, and this is opened as one",
            where="split",
            fix="use rlt convert DATA --output FOLDER --split RULE, and train on that folder; or leave the split out",
        )
    columns = select_columns(mapping, table.schema.names, where=table.where)
    fit = TableFit(columns, table.schema, mapping, table.where)
    return _episodes(in_memory(table, columns), fit, None, source)


def convert_table(table: TableInput, mapping: ColumnMapping, output: str | Path, *, source: str) -> JsonObject:
    """Write the episodes of a table of any size as a store, and return the account of its rows.

    Sorted rows lie in a folder beside the store until it is complete; a conversion that was killed goes on from there.
    With a split, the held-out episodes become a second store, whose name ends in ``-held-out``.

    Args:
        table: The table.
        mapping: What its columns are.
        output: Folder of the store; it must be empty or absent.
        source: Name of the data, for messages.

    Returns:
        ``rows_in``, ``steps_out``, ``held_out_steps``, ``rows_dropped`` (by reason), ``rows_tied`` (rows of the episode and
        moment of another one, with other values), and the paths of what was written:
        ``store``, ``held_out`` and ``dropped_rows``.

    Raises:
        RLTransformerError: The mapping does not fit the table, a file is damaged, or a folder is not empty.
    """
    folder = store_folder(output).resolve()
    columns = select_columns(mapping, table.schema.names, where=table.where)
    split = None if mapping.split is None else Split.from_text(mapping.split, columns, table.schema)
    fit = TableFit(columns, table.schema, mapping, table.where)  # what does not fit is found before anything is sorted
    outputs = _Outputs(folder, has_held_out=split is not None)
    outputs.check()
    with translate_write_errors(folder), owned(folder.with_name(f".{folder.name}.rows-lock"), what=folder):
        with tqdm(unit=" rows", unit_scale=True, desc="sorting", disable=None, leave=False) as bar:
            buckets = on_disk(table, columns, mapping, outputs.work, bar.update)
        spec, episodes = _episodes(buckets, fit, split, source)
        outputs.work.mkdir(exist_ok=True)
        outputs.remove_unfinished()
        with DroppedRows(outputs.work / "dropped.parquet") as dropped_rows:
            blocks = _with_progress(episodes.blocks("training", dropped_rows), buckets.num_rows)
            write_columns(outputs.work / "store", spec, blocks, notes=episodes.notes)
        if split is not None:
            blocks = _with_progress(episodes.blocks("held out"), buckets.num_rows)
            write_columns(outputs.work / "held-out", spec, blocks)
        written = outputs.publish()
    return {
        **written,
        "rows_in": buckets.num_rows,
        "steps_out": episodes.num_steps["training"],
        "held_out_steps": episodes.num_steps["held out"],
        "rows_dropped": dict(episodes.dropped.most_common()),
        "rows_tied": episodes.num_tied,
    }


@dataclass(frozen=True)
class _Outputs:
    """What a conversion writes: everything lies in a working folder until all of it is complete."""

    store: Path
    has_held_out: bool

    @property
    def work(self) -> Path:
        """The working folder, beside the store."""
        return self.store.with_name(f".{self.store.name}.rows")

    def _targets(self) -> dict[str, Path]:
        """Return the names in the working folder and those they get, the store last: it shows that all are there."""
        names = {"dropped.parquet": self.store.with_name(f"{self.store.name}-dropped.parquet")}
        if self.has_held_out:
            names["held-out"] = self.store.with_name(f"{self.store.name}-held-out")
        return {**names, "store": self.store}

    def check(self) -> None:
        """Refuse folders that hold something, before hours of work.

        Raises:
            RLTransformerError: The folder of the store, or of what is held out, is not empty.
        """
        self.store.parent.mkdir(parents=True, exist_ok=True)
        refuse_content(self.store)
        if self.has_held_out and not (self.work / "complete").exists():
            refuse_content(self._targets()["held-out"])

    def remove_unfinished(self) -> None:
        """Remove what a killed conversion wrote; its sorted rows stay."""
        for path in (self.work / name for name in (*self._targets(), "complete")):
            if path.exists():
                disk.DISK.remove(path)

    def publish(self) -> JsonObject:
        """Give everything its name, remove the working folder, and return the paths."""
        write_text(self.work / "complete", "")
        paths: JsonObject = {"store": None, "held_out": None, "dropped_rows": None}
        keys = {"dropped.parquet": "dropped_rows", "held-out": "held_out", "store": "store"}
        for name, target in self._targets().items():
            if not (self.work / name).exists():
                if target.exists():
                    # Every target that is always written was made, so this is the list of an earlier conversion.
                    log.info(
                        f"note: {target} is of an earlier conversion; it is removed, because this one drops no row"
                    )
                    disk.DISK.remove(target)
                continue
            if target.exists():
                # An empty folder, a list of an earlier conversion, or what this one published before it was killed.
                disk.DISK.remove(target)
            disk.DISK.rename(self.work / name, target)
            paths[keys[name]] = str(target)
        disk.DISK.sync_folder(self.store.parent)
        disk.DISK.remove(self.work)
        return paths


def _episodes(buckets: RowBuckets, fit: TableFit, split: Split | None, source: str) -> tuple[DataSpec, TableEpisodes]:
    """Learn what the values mean from the training rows, and return the episodes."""
    for rows in buckets:
        fit.add(rows if split is None else rows.filter(pa.array(~split.held_out_rows(rows))))
    for rows in buckets if fit.is_continuous else ():
        fit.add_actions(rows)
    spec, notes = fit.result(source)
    return spec, TableEpisodes(buckets, Encoder(spec, fit.columns, fit.mapping, fit.where), split, notes)


class DroppedRows:
    """Writes the rows that are in no episode to a Parquet file, with the reason; makes no file if there are none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp-rows")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> DroppedRows:
        self._temporary.unlink(missing_ok=True)
        return self

    def add(self, encoded: Encoded) -> None:
        """Write the dropped rows of one bucket."""
        if not encoded.reasons:
            return
        rows = encoded.rows.take(pa.array(encoded.dropped)).append_column("reason", pa.array(encoded.reasons))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, rows.schema)
        self._writer.write_table(rows)

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is None:
            disk.DISK.sync(self._temporary)
            disk.DISK.rename(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def _with_progress(blocks: Iterable[EpisodeBlock], num_rows: int) -> Iterator[EpisodeBlock]:
    """Yield the blocks, with a progress bar if stderr is a terminal."""
    with tqdm(total=num_rows, unit=" rows", unit_scale=True, desc="writing", disable=None, leave=False) as bar:
        for block in blocks:
            yield block
            bar.update(int(block.offsets[-1]))
