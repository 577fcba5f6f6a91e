"""Open tables of several file formats as batches of rows; pyarrow does the reading."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import refuse_special_file, user_path


class Unit(Protocol):
    """A piece of a table that is read at once, such as a file."""

    @property
    def name(self) -> str:
        """A name by which the piece is found again, with what shows that it was changed."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns, in order."""
        ...


@dataclass(frozen=True)
class TableInput:
    """A table: the types of its columns, and its pieces in order."""

    schema: pa.Schema
    units: Sequence[Unit]
    where: str
    """Name of the table, for messages."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns of the whole table, in order.

        Raises:
            RLTransformerError: A file is damaged, or a value is not of its column's type.
        """
        for unit in self.units:
            yield from read_unit(unit, columns, self.where)

    @property
    def num_bytes(self) -> int:
        """Size of the files, or of the table in memory."""
        return sum(getattr(unit, "num_bytes", 0) for unit in self.units)


def read_unit(unit: Unit, columns: Sequence[str], where: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some columns of one piece of a table.

    Raises:
        RLTransformerError: A file is damaged, or a value is not of its column's type.
    """
    batches = unit.batches(columns)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (pa.ArrowException, OSError, ValueError) as error:
            # The first line says what is wrong; Arrow adds lines about its own calls.
            problem = " ".join(str(error).split("\n")[0].split())[:300]
            fix = "repair the file; a column of a text file that is not what its first rows look like needs a type, as in "
            raise RLTransformerError(
                problem, where=unit.name or where, fix=f"{fix}types: {{zip: string}} in the mapping"
            ) from None
        yield batch


@dataclass(frozen=True)
class MemoryUnit:
    """A table in memory."""

    table: pa.Table
    name: str = ""

    @property
    def num_bytes(self) -> int:
        """Bytes of the columns."""
        return self.table.nbytes

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns."""
        yield from self.table.select(list(columns)).to_batches(max_chunksize=1 << 17)


@dataclass(frozen=True)
class FileUnit:
    """A file, or a row group of a Parquet file."""

    fragment: ds.Fragment
    schema: pa.Schema
    name: str
    num_bytes: int

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns."""
        # One batch ahead keeps memory at a few batches; the default of 16 held a whole file of wide rows.
        yield from self.fragment.to_batches(
            columns=list(columns), schema=self.schema, batch_size=1 << 17, batch_readahead=1, fragment_readahead=1
        )


def memory_input(table: object, *, where: str, name: str = "") -> TableInput:
    """Return a table in memory: an Arrow table, a mapping of arrays by column, or a DataFrame of pandas or Polars.

    Raises:
        RLTransformerError: It is none of these, or the columns have different lengths.
    """
    try:
        if isinstance(table, pa.RecordBatch | pa.Table) or hasattr(table, "__arrow_c_stream__"):
            arrow = pa.table(table)
        elif hasattr(table, "columns") and hasattr(table, "dtypes"):
            arrow = pa.Table.from_pandas(table, preserve_index=False)
        else:
            arrow = pa.table({str(name): _as_arrow(values) for name, values in dict(cast("Mapping", table)).items()})
    except (pa.ArrowException, TypeError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        fix = "give a mapping of columns of one length, an Arrow table or a DataFrame"
        raise RLTransformerError(f"is no table: {problem}", where=where, fix=fix) from None
    return TableInput(arrow.schema, [MemoryUnit(arrow, name or where)], where)


def _as_arrow(values: np.ndarray) -> pa.Array:
    """Return a column as an Arrow array; rows of a two-dimensional array become lists."""
    shape = getattr(values, "shape", ())
    if len(shape) == 2:
        flat = pa.array(values.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, shape[1])
    return pa.array(values)


def file_input(path: str, file_format: object, *, where: str) -> TableInput:
    """Open files of one format: a file, a glob, a folder (also with Hive's ``name=value`` folders), or a store's URI.

    Args:
        path: What was given; with ``s3://`` and the like, pyarrow's file system of that scheme is used.
        file_format: A format of `pyarrow.dataset`.
        where: The URI, for messages.

    Raises:
        RLTransformerError: There is no such file, or it is not of the format.
    """
    try:
        if "://" in path:
            dataset = ds.dataset(path, format=file_format, partitioning="hive")
        else:
            files = local_files(path, where)
            base = str(user_path(path)) if user_path(path).is_dir() else None
            dataset = ds.dataset(files, format=file_format, partitioning="hive", partition_base_dir=base)
        units = [unit for fragment in dataset.get_fragments() for unit in _units(fragment, dataset.schema)]
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:300]
        raise RLTransformerError(
            f"cannot be read: {problem}", where=where, fix="check the format of the files"
        ) from None
    return TableInput(dataset.schema, units, where)


def _units(fragment: ds.Fragment, schema: pa.Schema) -> list[FileUnit]:
    """Return a file as pieces: the row groups of a Parquet file, or the whole of another one."""
    stamp = _stamp(fragment)
    if not hasattr(fragment, "split_by_row_group"):
        return [FileUnit(fragment, schema, f"{fragment.path}{stamp[1]}", stamp[0])]
    groups = fragment.split_by_row_group()
    return [
        FileUnit(group, schema, f"{fragment.path}[{index}]{stamp[1]}", stamp[0] // len(groups))
        for index, group in enumerate(groups)
    ]


def _stamp(fragment: ds.Fragment) -> tuple[int, str]:
    """Return size, and size and time of change as text, of a file on any file system."""
    info = fragment.filesystem.get_file_info(fragment.path)
    return info.size or 0, f" {info.size} {info.mtime_ns}"


def file_name(path: Path) -> str:
    """Return the name of a local file with what shows that it was changed."""
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def local_files(path: str, where: str) -> list[str]:
    """Return the files that a path, a folder or a glob names, sorted by name; hidden ones are left out."""
    found = user_path(path)
    if found.is_dir():
        inside = (file for file in found.rglob("*") if file.is_file())
        files = [str(f) for f in inside if not any(p[0] in "._" for p in f.relative_to(found).parts)]
    elif found.exists():
        files = [str(found)]
    else:
        files = glob.glob(str(found), recursive=True)
    if not files:
        fix = "name a file, a folder, or a glob in quotes, such as 'parquet:logs/*.parquet'"
        raise RLTransformerError("there is no such file", where=where, fix=fix)
    for file in files:
        refuse_special_file(Path(file))
    return sorted(files)
