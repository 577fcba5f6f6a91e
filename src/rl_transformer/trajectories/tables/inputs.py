"""Tables as batches of rows: those in memory, and those in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pyarrow as pa

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.tables.files import TableFiles


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
            yield from unit.batches(columns)

    @property
    def num_bytes(self) -> int:
        """Size of the files, or of the table in memory."""
        return sum(getattr(unit, "num_bytes", 0) for unit in self.units)


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
    """A piece of table files: a file, or a row group of a Parquet file."""

    files: TableFiles
    index: int

    @property
    def name(self) -> str:
        """The file, and what shows that it was changed."""
        return self.files.pieces[self.index].name

    @property
    def num_bytes(self) -> int:
        """Bytes of the file, or its share of them."""
        return self.files.pieces[self.index].num_bytes

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns."""
        return self.files.batches(self.index, columns)


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
        raise RLTransformerError(f"is not a table: {problem}", where=where, fix=fix) from None
    return TableInput(arrow.schema, [MemoryUnit(arrow, name or where)], where)


def _as_arrow(values: np.ndarray) -> pa.Array:
    """Return a column as an Arrow array; rows of a two-dimensional array become lists."""
    shape = getattr(values, "shape", ())
    if len(shape) == 2:
        flat = pa.array(values.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, shape[1])
    return pa.array(values)


def files_input(files: TableFiles, *, where: str) -> TableInput:
    """Return a table whose rows are those of files."""
    return TableInput(files.schema, [FileUnit(files, index) for index in range(len(files.pieces))], where)


def file_name(path: Path) -> str:
    """Return the name of a local file with what shows that it was changed."""
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"
