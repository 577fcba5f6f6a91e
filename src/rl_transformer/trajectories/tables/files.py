"""Read table files of unknown origin through another process, so that what they do to their library is one message.

This module needs no library of tables until rows come, so that the other process imports them while this one does.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING, NamedTuple

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.child import (
    FIX,
    SecondsOfProcess,
    child_command,
    child_environment,
    describe_end,
    seconds_to_read,
)
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.system import widen_pipe
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.tables.locations import is_url, local_files

if TYPE_CHECKING:
    import pyarrow as pa

_PIPE_BYTES = 1 << 20  # what Linux lets a pipe hold at most, unless it is told otherwise
# Names of files behind a URL are not known here, nor are their sizes, and the network has a pace of its own.
_BYTES_BEHIND_A_URL = 600 * 2**20
_FIX = (
    "repair the file; a column of a text file that is not what its first rows look like needs a type, as in "
    "types: {zip: string, price: decimal_comma} in the mapping"
)


def open_files(path: str, file_format: str, *, where: str, types: Mapping[str, str] | None = None) -> TableFiles:
    """Open files of one format: a file, a glob, a folder (also with Hive's ``name=value`` folders), or a store's URI.

    Args:
        path: What was given; URLs such as ``s3://BUCKET/...`` are for `runtime.object_stores`.
        file_format: A format of `pyarrow.dataset`.
        where: The URI, for messages.
        types: Types of columns of text files.

    Raises:
        RLTransformerError: There is no such file, or it is not of the format.
    """
    files: str | list[str] = path
    base = None
    if not is_url(path):
        files = local_files(path, where)
        base = str(user_path(path)) if user_path(path).is_dir() else None
    return TableFiles({"format": file_format, "files": files, "base": base, "types": dict(types or {})}, where=where)


class Piece(NamedTuple):
    """A piece of a table: a name by which it is found again, with what shows that it was changed, and its size in bytes."""

    name: str
    num_bytes: int


class TableFiles:
    """Files of one table, which a process with limits of memory and time reads.

    Args:
        request: What to open: ``format`` is a format of `pyarrow.dataset` or ``stream``, ``files`` a list of paths or a URL,
            ``base`` the folder whose ``name=value`` folders are columns, and ``types`` those of columns of text files.
        where: The URI, for messages.

    The process is started at once, and whether it can read the files shows when they are first asked for.
    """

    def __init__(self, request: JsonObject, *, where: str) -> None:
        self._request = request
        self._where = where
        files = request["files"]
        self._is_local = isinstance(files, list)
        self._num_bytes = sum(os.stat(file).st_size for file in files) if self._is_local else _BYTES_BEHIND_A_URL
        self._idle: list[_Reader] = []
        self._first = self._start()

    def __getstate__(self) -> JsonObject:
        """Return what another process needs to read the same files, through a process that it starts itself."""
        # What was found in the files goes along, so that a change in the meantime is noticed there.
        known = ("_request", "_where", "_is_local", "_num_bytes", "_description")
        return {**{name: getattr(self, name) for name in known}, "_idle": []}

    @cached_property
    def _description(self) -> JsonObject:
        description = self._describe(self._first)
        self._idle.append(self._first)
        return description

    @cached_property
    def pieces(self) -> list[Piece]:
        """The pieces, in order.

        Raises:
            RLTransformerError: The files cannot be read as this format.
        """
        return [Piece(*piece) for piece in self._description["pieces"]]

    @cached_property
    def schema(self) -> pa.Schema:
        """Types of the columns."""
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self._description["schema"])))

    def batches(self, piece: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some columns of a piece, in order.

        Raises:
            RLTransformerError: The file is damaged, was changed, or harms the process that reads it.
        """
        where, num_bytes = self.pieces[piece]
        seconds = seconds_to_read(max(num_bytes, 0 if self._is_local else _BYTES_BEHIND_A_URL))
        reader = self._take()
        is_whole = False
        try:
            reader.ask({"piece": piece, "columns": list(columns)})
            yield from reader.rows(where, seconds)
            is_whole = True
        finally:
            if is_whole:
                self._idle.append(reader)
            else:
                reader.end()

    def _take(self) -> _Reader:
        """Return a process that waits for requests; one that is in the middle of an answer is left alone."""
        while self._idle:
            reader = self._idle.pop()
            if reader.is_ready():
                return reader
        reader = self._start()
        if self._describe(reader) != self._description:
            reader.end()
            fix = "start again when nothing writes to the files any more"
            raise RLTransformerError("was changed while it was read", where=self._where, fix=fix)
        return reader

    def _start(self) -> _Reader:
        reader = _Reader()
        reader.ask(self._request)
        return reader

    def _describe(self, reader: _Reader) -> JsonObject:
        """Return what a process that was just started says of the files."""
        try:
            return reader.answer(self._where, seconds_to_read(self._num_bytes))
        except BaseException:
            reader.end()
            raise


class _Reader:
    """A process that runs `runtime.table_files`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            child_command("rl_transformer.runtime.table_files:main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        widen_pipe(_pipe(self._process.stdout).fileno(), _PIPE_BYTES)
        self._silence = threading.Event()
        self._owner = os.getpid()
        self.end = weakref.finalize(self, _end, self._process, self._owner)

    def is_ready(self) -> bool:
        """Return True if the process goes on and belongs to this one, not to one that this is a copy of."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: JsonObject) -> None:
        """Send a request."""
        with suppress(BrokenPipeError):  # the answer says why
            _pipe(self._process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(self._process.stdin).flush()

    def answer(self, where: str, seconds: float) -> JsonObject:
        """Return the next answer.

        Raises:
            RLTransformerError: It is that something is wrong, or none comes in time.
        """
        while True:
            with self._patience(where, seconds):
                answer: JsonObject = json.loads(_pipe(self._process.stdout).readline())
            if "problem" in answer:
                raise RLTransformerError(answer["problem"], where=answer["where"] or where, fix=answer.get("fix", _FIX))
            if "is_going_on" not in answer:
                return answer

    def rows(self, where: str, seconds: float) -> Iterator[pa.RecordBatch]:
        """Yield rows and take the answer after them.

        Raises:
            RLTransformerError: A file is damaged, or harms the process.
        """
        import pyarrow as pa

        if "has_rows" not in self.answer(where, seconds):
            return
        with self._patience(where, seconds):
            stream = pa.ipc.open_stream(pa.PythonFile(_pipe(self._process.stdout), "r"))
        while True:
            with self._patience(where, seconds):
                try:
                    batch = stream.read_next_batch()
                except StopIteration:
                    break
            yield batch
        self.answer(where, seconds)

    @contextmanager
    def _patience(self, where: str, seconds: float) -> Iterator[None]:
        """End the process if what the block waits for takes too long, and translate errors of a process that ended."""
        has_come = threading.Event()
        silence = self._silence  # not self: it ends when the last reference to it does
        process = self._process

        def watch() -> None:
            used = SecondsOfProcess(process.pid)
            while not has_come.wait(1.0):
                if used.after_one_more() >= seconds:
                    break
            else:
                return
            silence.set()
            process.kill()

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        except (OSError, ValueError) as error:  # what was read ends early
            if silence.is_set():
                problem = f"reading it goes on for {seconds:.0f} seconds without a result"
            else:
                problem = f"reading it terminates the reading process ({describe_end(self._exit_code())})"
            raise RLTransformerError(problem, where=where, fix=FIX) from error
        finally:
            has_come.set()

    def _exit_code(self) -> int:
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:  # it goes on, and what it says cannot be understood
            self._process.kill()
            return self._process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # both were asked for
    return pipe


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process that this one started."""
    if owner == os.getpid():  # and not in a copy of it
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                _pipe(pipe).close()
        process.wait()
