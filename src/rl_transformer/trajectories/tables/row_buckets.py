"""Bring the rows of each episode together, on disk where the table is larger than memory should be."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk, log
from rl_transformer.runtime.files import MANIFEST, remove_leftovers, to_json, write_folder, write_text
from rl_transformer.runtime.memory import refuse_beyond_memory
from rl_transformer.runtime.reading import read_json
from rl_transformer.trajectories.tables.arrow import pc
from rl_transformer.trajectories.tables.inputs import TableInput, Unit
from rl_transformer.trajectories.tables.mapping import ColumnMapping, Columns

_ROWS_PER_BUCKET = 500_000
_MOST_BUCKETS = 256
_BYTES_PER_PART = 64 * 2**20
_SAMPLE = 200_000

_MEMORY_FIX = (
    "convert a table with rlt convert, by episode columns with many values; or convert a part of its columns or files, or use "
    "a machine with more memory"
)

Report = Callable[[int], object]
"""Called with the number of rows that were just read."""


class RowBuckets(Protocol):
    """The rows of a table in buckets, each of which holds all rows of its episodes; may be read several times."""

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        ...

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the buckets in the order of the episodes' names."""
        ...


@dataclass(frozen=True)
class MemoryBuckets:
    """A single bucket: the whole table."""

    table: pa.Table

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return len(self.table)

    def __iter__(self) -> Iterator[pa.Table]:
        yield self.table


def in_memory(table: TableInput, columns: Columns) -> MemoryBuckets:
    """Read the columns of a mapping into memory."""
    names = columns.all
    schema = pa.schema([table.schema.field(name) for name in names])
    batches: list[pa.RecordBatch] = []
    num_bytes = 0
    for batch in table.batches(names):
        # The rows read so far are needed once more, sorted.
        num_bytes += batch.nbytes
        refuse_beyond_memory(num_bytes, "its rows", where=table.where, fix=_MEMORY_FIX)
        batches.append(batch)
    return MemoryBuckets(pa.Table.from_batches(batches, schema))


@dataclass(frozen=True)
class DiskBuckets:
    """Buckets in files, which were written part by part of the input."""

    folder: Path
    count: int
    num_parts: int
    num_rows: int

    def __iter__(self) -> Iterator[pa.Table]:
        for bucket in range(self.count):
            parts = []
            paths = [_part(self.folder, part) / f"{bucket}.arrow" for part in range(self.num_parts)]
            num_bytes = sum(path.stat().st_size for path in paths)
            refuse_beyond_memory(num_bytes, "rows that belong together", where=self.folder, fix=_MEMORY_FIX)
            for path in paths:
                with pa.memory_map(str(path)) as file:
                    parts.append(pa.ipc.open_stream(file).read_all())
            yield pa.concat_tables(parts)


def on_disk(table: TableInput, columns: Columns, mapping: ColumnMapping, folder: Path, report: Report) -> RowBuckets:
    """Sort the rows of a table into buckets of whole episodes in ``folder``; goes on where a killed process stopped.

    Every bucket holds a range of episode names, so that episodes come in the order of their names, whatever order the
    rows had and however many buckets there are.

    Args:
        table: The table.
        columns: The columns of the mapping.
        mapping: The mapping; with the files it identifies what is being converted.
        folder: Folder of the buckets, which is removed at the end of the conversion.
        report: Told of every batch.

    Raises:
        RLTransformerError: A file cannot be read, or was changed in the meantime.
    """
    if not columns.episode:
        return in_memory(table, columns)  # all rows are one sequence, which only memory can sort
    plan_file = folder / "plan.json"
    identity = _identity(table, mapping)
    if plan_file.is_file() and read_json(plan_file, fix=f"remove {folder}")["identity"] != identity:
        log.info(f"note: {folder} holds rows of other files or of another mapping; it is removed")
        disk.DISK.remove(folder)
    if not plan_file.is_file():
        num_rows, cuts = _plan(table, columns.episode)
        folder.mkdir(parents=True, exist_ok=True)
        _write_stream(folder / "cuts.arrow", cuts)
        write_text(plan_file, to_json({"identity": identity, "num_rows": num_rows}))
    num_rows = int(read_json(plan_file, fix=f"remove {folder}")["num_rows"])
    with pa.memory_map(str(folder / "cuts.arrow")) as file:
        cuts = pa.ipc.open_stream(file).read_all()
    parts = _parts(table.units)
    done = [index for index in range(len(parts)) if (_part(folder, index) / MANIFEST).is_file()]
    if done:
        log.info(f"note: {len(done)} of {len(parts)} parts of the table were sorted before; going on with the others")
    remove_leftovers(folder)
    for index in range(len(parts)):
        if index not in done:
            _write_part(table, parts[index], columns, cuts, _part(folder, index), report)
    return DiskBuckets(folder, len(cuts) + 1, len(parts), num_rows)


def _write_part(
    table: TableInput, units: Sequence[Unit], columns: Columns, cuts: pa.Table, folder: Path, report: Report
) -> None:
    """Write the rows of some pieces of the table, one file per bucket."""
    schema = pa.schema([table.schema.field(name) for name in columns.all])

    def fill(temporary: Path) -> None:
        with ExitStack() as open_files:
            writers = []
            for bucket in range(len(cuts) + 1):
                file = open_files.enter_context(disk.DISK.create(temporary / f"{bucket}.arrow"))
                writers.append(open_files.enter_context(pa.ipc.new_stream(file, schema)))
            for unit in units:
                for batch in unit.batches(columns.all):
                    rows = pa.Table.from_batches([batch]).cast(schema)
                    for writer, slice_ in zip(writers, _divide(rows, cuts, columns.episode), strict=True):
                        if len(slice_):
                            writer.write_table(slice_)
                    report(len(rows))

    write_folder(folder, fill, replace=False)


def _divide(rows: pa.Table, cuts: pa.Table, keys: Sequence[str]) -> list[pa.Table]:
    """Return the rows of every bucket: those from one cut up to, not including, the next."""
    if not len(cuts):
        return [rows]
    # Sorting the cuts among the rows compares names of any type, and several columns, without code of our own.
    joined = pa.concat_tables([cuts, rows.select(list(keys)).cast(cuts.schema)])
    order = pc.sort_indices(joined, sort_keys=[(name, "ascending") for name in keys]).to_numpy()
    is_cut = order < len(cuts)
    bucket = np.empty(len(rows), np.int64)
    bucket[order[~is_cut] - len(cuts)] = np.cumsum(is_cut)[~is_cut]
    by_bucket = np.argsort(bucket, kind="stable")  # rows of a bucket keep their order
    sorted_rows = rows.take(pa.array(by_bucket))
    borders = np.searchsorted(bucket[by_bucket], np.arange(len(cuts) + 2))
    return [sorted_rows.slice(a, b - a) for a, b in itertools.pairwise(borders)]


def _plan(table: TableInput, keys: Sequence[str]) -> tuple[int, pa.Table]:
    """Return the number of rows, and the names at which buckets begin, from an evenly spaced sample of the rows."""
    samples: list[pa.Table] = []
    num_rows = 0
    step = 1
    for batch in table.batches(keys):
        first = -num_rows % step
        if first < len(batch):
            samples.append(pa.Table.from_batches([batch]).take(pa.array(np.arange(first, len(batch), step))))
        num_rows += len(batch)
        if sum(map(len, samples)) > _SAMPLE:
            step *= 2
            thinned = pa.concat_tables(samples)
            samples = [thinned.take(pa.array(np.arange(0, len(thinned), 2)))]
    schema = pa.schema([table.schema.field(name) for name in keys])
    sample = pa.concat_tables([piece.cast(schema) for piece in samples]) if samples else schema.empty_table()
    if not num_rows:
        raise RLTransformerError("holds no rows", where=table.where, fix="name files with rows")
    sample = sample.filter(pc.invert(_any_null(sample)))
    count = min(-(-num_rows // _ROWS_PER_BUCKET), _MOST_BUCKETS)
    if not len(sample):
        return num_rows, sample
    ordered = sample.take(pc.sort_indices(sample, sort_keys=[(name, "ascending") for name in keys]))
    at = np.unique([len(ordered) * i // count for i in range(1, count)]).astype(int)
    cuts = ordered.take(pa.array(at)).combine_chunks()
    return num_rows, cuts.group_by(list(keys), use_threads=False).aggregate([]) if len(cuts) else cuts


def _any_null(rows: pa.Table) -> pa.ChunkedArray:
    result = rows.column(0).is_null()
    for column in rows.columns[1:]:
        result = pc.or_(result, column.is_null())
    return result


def _parts(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return the pieces of a table in groups that are sorted, and repeated after a kill, together."""
    groups: list[list[Unit]] = [[]]
    size = 0
    for unit in units:
        if groups[-1] and size >= _BYTES_PER_PART:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += getattr(unit, "num_bytes", 0)
    return groups


def _part(folder: Path, index: int) -> Path:
    return folder / f"part-{index}"


def _identity(table: TableInput, mapping: ColumnMapping) -> str:
    content = [mapping.to_dict(), [unit.name for unit in table.units], str(table.schema)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write_stream(path: Path, rows: pa.Table) -> None:
    path.unlink(missing_ok=True)
    with disk.DISK.create(path) as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)
