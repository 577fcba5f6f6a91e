"""Convert a table to a store, or open it as a dataset: rows in, episodes out, and an account of every row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk, log
from rl_transformer.runtime.files import refuse_content, translate_write_errors, write_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.store_files import store_folder, write_columns
from rl_transformer.trajectories.tables.encode import Encoder
from rl_transformer.trajectories.tables.engines import Engine, engine_named, in_this_process
from rl_transformer.trajectories.tables.episodes import DroppedRows, TableEpisodes
from rl_transformer.trajectories.tables.fit import TableFit
from rl_transformer.trajectories.tables.inputs import TableInput
from rl_transformer.trajectories.tables.mapping import ColumnMapping, select_columns
from rl_transformer.trajectories.tables.row_buckets import RowBuckets, in_memory, on_disk
from rl_transformer.trajectories.tables.split import Split
from rl_transformer.trajectories.tables.write_shards import write_shards


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


def convert_table(
    table: TableInput, mapping: ColumnMapping, output: str | Path, *, source: str, engine: str = "local"
) -> JsonObject:
    """Write the episodes of a table of any size as a store, and return the account of its rows.

    Sorted rows lie in a folder beside the store until it is complete; a conversion that was killed goes on from there.
    With a split, the held-out episodes become a second store, whose name ends in ``-held-out``.

    Args:
        table: The table.
        mapping: What its columns are.
        output: Folder of the store; it must be empty or absent.
        source: Name of the data, for messages.
        engine: ``local``, or ``ray`` to convert on a cluster; the store then lies in shards, with the same fingerprint.

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
    if engine != "local" and not columns.episode:
        fix = "leave --engine out, or name the columns of episodes: --episode COLUMN"
        raise RLTransformerError("all rows are one sequence, which cannot be divided", where="--engine", fix=fix)
    lock = owned(folder.with_name(f".{folder.name}.rows-lock"), what=folder)
    with translate_write_errors(folder), lock, engine_named(engine) as run:
        with tqdm(unit=" rows", unit_scale=True, desc="sorting", disable=None, leave=False) as bar:
            buckets = on_disk(table, columns, mapping, outputs.work, bar.update, run)
        spec, episodes = _episodes(buckets, fit, split, source, run)
        outputs.work.mkdir(exist_ok=True)
        outputs.remove_unfinished()
        if engine == "local":
            _write_whole(episodes, spec, outputs)
        else:
            write_shards(episodes, spec, outputs.work, run)
        written = outputs.publish()
    return {
        **written,
        "rows_in": buckets.num_rows,
        "steps_out": episodes.num_steps["training"],
        "held_out_steps": episodes.num_steps["held out"],
        "rows_dropped": dict(episodes.dropped.most_common()),
        "rows_tied": episodes.num_tied,
    }


def _write_whole(episodes: TableEpisodes, spec: DataSpec, outputs: _Outputs) -> None:
    """Write the stores, bucket by bucket, and the rows that are in no episode."""
    num_rows = episodes.buckets.num_rows
    with DroppedRows(outputs.work / "dropped.parquet") as dropped_rows:
        blocks = _with_progress(episodes.blocks("training", dropped_rows), num_rows)
        write_columns(outputs.work / "store", spec, blocks, notes=episodes.notes)
    if episodes.split is not None:
        blocks = _with_progress(episodes.blocks("held out"), num_rows)
        write_columns(outputs.work / "held-out", spec, blocks)


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


@dataclass(frozen=True)
class _Lesson:
    """What is needed to learn from one bucket what its values mean."""

    buckets: RowBuckets
    fit: TableFit
    split: Split | None


def _learn(lesson: _Lesson, number: int) -> TableFit:
    """Learn from the training rows of one bucket."""
    rows = lesson.buckets.read(number)
    # A new one: what is shared may be in another process, or be used again.
    fit = replace(lesson.fit, widths={}, seen={}, extents={})
    fit.add(rows if lesson.split is None else rows.filter(pa.array(~lesson.split.held_out_rows(rows))))
    return fit


def _learn_bounds(lesson: _Lesson, number: int) -> TableFit:
    """Learn the range of the continuous actions of one bucket."""
    fit = replace(lesson.fit, seen={}, extents={})
    fit.add_actions(lesson.buckets.read(number))
    return fit


def _episodes(
    buckets: RowBuckets, fit: TableFit, split: Split | None, source: str, run: Engine = in_this_process
) -> tuple[DataSpec, TableEpisodes]:
    """Learn what the values mean from the training rows, and return the episodes."""
    lesson = _Lesson(buckets, fit, split)
    for function in (_learn, *([_learn_bounds] if fit.is_continuous else [])):
        for learned in run(function, lesson, range(buckets.count)):
            fit.join(learned)
    spec, notes = fit.result(source)
    return spec, TableEpisodes(buckets, Encoder(spec, fit.columns, fit.mapping, fit.where, fit.videos), split, notes)


def _with_progress(blocks: Iterable[EpisodeBlock], num_rows: int) -> Iterator[EpisodeBlock]:
    """Yield the blocks, with a progress bar if stderr is a terminal."""
    with tqdm(total=num_rows, unit=" rows", unit_scale=True, desc="writing", disable=None, leave=False) as bar:
        for block in blocks:
            yield block
            bar.update(int(block.offsets[-1]))
