"""Read tables of unknown origin and write their rows as Arrow streams: `runtime.child` runs this in a process of its own.

The other side of the conversation is `trajectories.tables.files`. It sends lines of JSON: first what to open, then one for each
piece of the table whose rows it wants. The answers are lines of JSON, too, and rows come as a stream before their answer.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import csv
from pyarrow import json as arrow_json

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.child import too_much_memory
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.object_stores import Located, locate
from rl_transformer.runtime.system import usable_cores
from rl_transformer.runtime.types import JsonObject

_ROWS = 1 << 17
_LONGEST_HEADER = 1_000_000
_ARROW_BLOCK = 1 << 20
_LONGEST_ROW = 1 << 28
# More would only reserve memory, which counts; the rows go through one pipe.
_MOST_THREADS = 4
SMALLER = (
    "write it again in smaller parts, such as row groups of 100,000 rows; if it is not that large, do not trust it"
)


def main() -> None:
    """Answer the requests on standard input until it is closed, which it is when the parent has ended."""
    answers = os.fdopen(os.dup(1), "wb", 1 << 20)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    requests: queue.SimpleQueue[JsonObject] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    pa.set_cpu_count(min(usable_cores(), _MOST_THREADS))

    def say(answer: JsonObject) -> None:
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    files: DatasetFiles | StreamFiles | None = None
    while True:
        request = requests.get()
        try:
            if files is None:
                files = open_files(request, lambda: say({"is_going_on": True}))
                say({"pieces": files.pieces, "schema": files.schema.serialize().to_pybytes().hex()})
            else:
                batches = files.batches(request["piece"], request["columns"])
                first = next(batches, None)
                if first is not None:
                    say({"has_rows": True})
                    _write(first, batches, answers)
                say({})
        except Exception as error:
            say(_problem(error, files.present if files else None))


def open_files(request: JsonObject, report: Callable[[], None]) -> DatasetFiles | StreamFiles:
    """Open the files that a request names, and call ``report`` after each."""
    return StreamFiles(request) if request["format"] == "stream" else DatasetFiles(request, report)


class DatasetFiles:
    """Files of a format of `pyarrow.dataset`; a piece is a row group of a Parquet file, or another file."""

    def __init__(self, request: JsonObject, report: Callable[[], None]) -> None:
        found = locate(request["files"], request["base"])
        dataset = ds.dataset(
            found.files,
            filesystem=found.filesystem,
            format=_format(request, found),
            partitioning="hive",
            partition_base_dir=found.base,
        )
        self.schema = _checked(dataset.schema)
        self.present: str | None = None
        self.pieces: list[tuple[str, int]] = []
        self._fragments: list[ds.Fragment] = []
        for fragment in dataset.get_fragments():
            info = fragment.filesystem.get_file_info(fragment.path)
            stamp = f" {info.size} {info.mtime_ns}"  # shows that the file was changed
            if hasattr(fragment, "split_by_row_group"):
                groups = fragment.split_by_row_group()
                self._fragments += groups
                size = (info.size or 0) // max(1, len(groups))
                self.pieces += [(f"{fragment.path}[{index}]{stamp}", size) for index in range(len(groups))]
            else:
                self._fragments.append(fragment)
                self.pieces.append((f"{fragment.path}{stamp}", info.size or 0))
            report()

    def batches(self, piece: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns of a piece."""
        # One batch ahead keeps memory at a few batches; the default of 16 held a whole file of wide rows.
        yield from self._fragments[piece].to_batches(
            columns=list(columns), schema=self.schema, batch_size=_ROWS, batch_readahead=1, fragment_readahead=1
        )


class StreamFiles:
    """Files that hold a stream of Arrow's each, as `datasets` writes them; together they are a single piece."""

    def __init__(self, request: JsonObject) -> None:
        self._files: list[str] = request["files"]
        self.present = self._files[0]
        with pa.OSFile(self.present) as file, pa.ipc.open_stream(file) as stream:
            self.schema = _checked(stream.schema)
        stats = [os.stat(path) for path in self._files]
        name = " ".join(
            f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in zip(self._files, stats, strict=True)
        )
        self.pieces = [(name, sum(stat.st_size for stat in stats))]

    def batches(self, piece: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns of all files."""
        for path in self._files:
            self.present = path
            # Mapping the file would be counted as memory.
            with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
                if not stream.schema.equals(self.schema):
                    raise ValueError(f"its columns are not those of {self._files[0]}")
                for batch in stream:
                    yield batch.select(list(columns))


def _checked(schema: pa.Schema) -> pa.Schema:
    """Return a schema after reading the names in it, which Arrow does not check, and counting them."""
    _check_count(len(schema))
    try:
        schema.to_string(show_field_metadata=False, show_schema_metadata=False)
        _ = schema.names
    except UnicodeDecodeError as error:
        raise ValueError(f"the name of a column is not UTF-8: {error}") from None
    return schema


def _check_count(columns: int) -> None:
    limit = LIMITS["table_columns"]
    if columns > limit.most:
        raise ValueError(f"declares {columns:,} {limit.what}, and the limit is {limit.most:,}")


def _write(first: pa.RecordBatch, others: Iterator[pa.RecordBatch], answers: BinaryIO) -> None:
    """Write rows as a stream, which is complete also where reading fails."""
    with pa.ipc.new_stream(answers, first.schema) as stream:
        for batch in itertools.chain([first], others):
            # A file can hold lists that point behind their values, and texts that are none: they harm who uses them.
            batch.validate(full=True)
            stream.write_batch(batch)


def _format(request: JsonObject, found: Located) -> str | ds.FileFormat:
    if request["format"] == "json":
        return _json_format(found)
    if request["format"] != "csv":
        return request["format"]
    has_commas = "decimal_comma" in request["types"].values()
    kinds = {name: "double" if kind == "decimal_comma" else kind for name, kind in request["types"].items()}
    types = {name: pa.type_for_alias(kind) for name, kind in kinds.items()}
    convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, decimal_point="," if has_commas else ".")
    return ds.CsvFileFormat(convert_options=convert, parse_options=csv.ParseOptions(delimiter=_delimiter(found)))


def _json_format(found: Located) -> ds.FileFormat:
    """Return the format of JSON lines.

    Where the first block of a file holds no end of a line, Arrow 26 reads every value of the file as null. So blocks are longer
    than the first lines, and in a file of one row that no end of a line follows, lines may lie inside of values, which takes longer.
    """
    lines = [_first_line(found, file, _LONGEST_ROW) for file in found.files]
    longest = max(map(len, lines), default=0)
    if any(len(line) > _ARROW_BLOCK and not line.endswith(b"\n") for line in lines):
        raise ValueError("its first line has no end: append a newline to it, or write shorter lines")
    return ds.JsonFileFormat(
        read_options=arrow_json.ReadOptions(block_size=max(_ARROW_BLOCK, 2 * longest)),
        parse_options=arrow_json.ParseOptions(newlines_in_values=not all(line.endswith(b"\n") for line in lines)),
    )


def _first_line(found: Located, path: str, longest: int) -> bytes:
    """Return the first line of a file with its end, or what of it has as many bytes as a line may have."""
    read = bytearray()
    # Reading the file itself says what is wrong with it.
    with suppress(OSError, ValueError), found.filesystem.open_input_stream(path) as file:
        while len(read) < longest:
            part = file.read(1 << 16)
            read += part
            if not part or b"\n" in part:
                break
    end = read.find(b"\n")
    return bytes(read[: longest if end < 0 else end + 1])


def _delimiter(found: Located) -> str:
    """Return what separates the names in the first line of the first file: a comma, or a tab or semicolon if more frequent."""
    line = _first_line(found, found.files[0], _LONGEST_HEADER)
    mark = max((",", "\t", ";"), key=lambda mark: line.count(mark.encode()))
    # Before Arrow builds a reader for each of them, which takes kilobytes.
    _check_count(line.count(mark.encode()) + 1)
    return mark


def _problem(error: Exception, path: str | None) -> JsonObject:
    """Return an answer that says what is wrong with the files, or with the one at ``path``."""
    if isinstance(error, MemoryError):
        return {"problem": f"reading it {too_much_memory()}", "fix": SMALLER, "where": path}
    # The first line says what is wrong; Arrow adds lines about its own calls.
    text = " ".join(str(error).split("\n")[0].split())[:300]
    if isinstance(error, RLTransformerError):
        return {"problem": error.problem, "where": str(error.where), "fix": error.fix}
    expected = isinstance(error, pa.ArrowException | OSError | ValueError)
    return {"problem": text if expected else f"{type(error).__name__}: {text}", "where": path}


def _listen(requests: queue.SimpleQueue[JsonObject]) -> None:
    """Take requests from standard input; at its end the process ends, whatever it is doing."""
    for line in sys.stdin.buffer:
        requests.put(json.loads(line))
    os._exit(0)
