"""The files of Dopamine's replay buffers: gzipped .npy columns, read in chunks and believed only after checks."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.checks import Finding
from rl_transformer.trajectories.trajectory import Trajectory

MEMBERS = ("observation", "action", "reward", "terminal")
"""The columns of a buffer, each in a file `$store$_COLUMN_ckpt.NUMBER.gz`."""
_NAME = re.compile(r"\$store\$_(\w+)_ckpt\.(\d{1,6})\.gz")
_DTYPES = {"observation": "u", "action": "iu", "reward": "f", "terminal": "biu"}
_FULL_ACTIONS = 18  # no Atari game has more
_MOST_STEPS = 100_000_000  # a header that declares more is damaged; Dopamine's buffers have 1,000,000
_LARGEST_FRAME = 1_000  # pixels per side
_CHUNK = 250  # steps read at once from a buffer; fifty buffers may be open at the same time
_TAIL = "unfinished tail"
_FIX = "download or write the file again"


@dataclass(frozen=True)
class Buffer:
    """Names the files of one replay buffer."""

    folder: Path
    number: int

    def path(self, member: str) -> Path:
        """Return the file of a column."""
        return self.folder / f"$store$_{member}_ckpt.{self.number}.gz"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        with _open_column(self.path("observation"), "observation") as column:
            return column.shape

    def largest_action(self) -> int:
        """Return the largest action, after reading the column of actions."""
        with _open_column(self.path("action"), "action") as column:
            largest = -1
            for chunk in column.chunks():
                largest = max(largest, int(chunk.max()))
                if chunk.min() < 0 or largest >= _FULL_ACTIONS:
                    bad = int(chunk.min()) if chunk.min() < 0 else largest
                    problem = f"holds the action {bad}; Atari games have actions from 0 to {_FULL_ACTIONS - 1}"
                    raise RLTransformerError(problem, where=self.path("action"), fix=_FIX)
            return largest

    def steps(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield chunks of steps, one array per column.

        Raises:
            RLTransformerError: The columns have different lengths, or a file is damaged.
        """
        with ExitStack() as stack:
            columns = {member: stack.enter_context(_open_column(self.path(member), member)) for member in MEMBERS}
            lengths = {member: column.length for member, column in columns.items()}
            if len(set(lengths.values())) > 1:
                raise RLTransformerError(
                    f"the columns of buffer {self.number} have unequal lengths: {lengths}",
                    where=self.folder,
                    fix="the files belong to different buffers: download or write them again",
                )
            yield from (
                dict(zip(columns, parts, strict=True))
                for parts in zip(*(column.chunks() for column in columns.values()), strict=True)
            )

    def episodes(self, notes: list[Finding]) -> Iterator[Trajectory]:
        """Yield the episodes in order; the tail without an end is left out and added to ``notes``."""
        begun: list[dict[str, np.ndarray]] = []
        for chunk in self.steps():
            start = 0
            for end in np.flatnonzero(chunk["terminal"]) + 1:
                begun.append({name: values[start:end] for name, values in chunk.items()})
                yield _trajectory(begun)
                begun = []
                start = int(end)
            begun.append({name: values[start:] for name, values in chunk.items()})
        tail = sum(len(part["reward"]) for part in begun)
        if tail:
            _note_tail(notes, self.number, tail)


def _note_tail(notes: list[Finding], number: int, steps: int) -> None:
    """Add the end of a buffer to the finding about steps that were left out, because no terminal follows them."""
    # A dataset has one finding of a kind, so that fifty buffers do not give fifty messages.
    note = next((note for note in notes if note.kind == _TAIL), None)
    if note is None:
        note = Finding("info", _TAIL, "rewards", "", "nothing to do: their episodes end in no file")
        notes.append(note)
    note.count += steps
    parts = [*note.problem.partition(": ")[2].split(", "), f"{steps} of buffer {number}"]
    listed = ", ".join(part for part in parts if part)
    note.problem = f"the last steps of buffers have no terminal after them and were left out: {listed}"


def _trajectory(parts: list[dict[str, np.ndarray]]) -> Trajectory:
    """Return an episode from the chunks of its steps."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in MEMBERS}
    return Trajectory(
        observations=columns["observation"][:, None],
        actions=columns["action"].astype(np.int64),
        rewards=columns["reward"].astype(np.float64),
        terminated=True,
    )


class _Column:
    """Reads a gzipped .npy file from its beginning to its end."""

    def __init__(self, file: gzip.GzipFile, path: Path, member: str) -> None:
        self._file = file
        self._path = path
        shape, self._dtype = self._read_header(member)
        self.length = shape[0]
        self.shape = shape[1:]

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the rows, at most `_CHUNK` at once.

        Raises:
            RLTransformerError: The file is damaged, or shorter or longer than its header says.
        """
        row_bytes = self._dtype.itemsize * math.prod(self.shape)
        for first in range(0, self.length, _CHUNK):
            count = min(_CHUNK, self.length - first)
            content = self._read(count * row_bytes)
            if len(content) < count * row_bytes:
                problem = f"ends after {first + len(content) // row_bytes} of {self.length} steps"
                raise RLTransformerError(problem, where=self._path, fix=_FIX)
            yield np.frombuffer(content, self._dtype).reshape(count, *self.shape)
        # Reading on to the end also makes gzip compare its checksum of the whole content.
        if self._read(1):
            problem = f"goes on after the {self.length} steps that its header declares"
            raise RLTransformerError(problem, where=self._path, fix=_FIX)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, zlib.error, OSError) as error:  # gzip's own errors are an OSError
            problem = f"is damaged or was cut off: {error}"
            raise RLTransformerError(problem, where=self._path, fix=_FIX) from None

    def _read_header(self, member: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and dtype, after checking that they are those of the column."""
        try:
            version = npy.read_magic(self._file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = read(self._file)
        # NumPy reads the header as a Python literal, whose damage shows in many ways.
        except (
            ValueError,
            KeyError,
            SyntaxError,
            TokenError,
            TypeError,
            OverflowError,
            EOFError,
            zlib.error,
            OSError,
        ) as error:
            raise RLTransformerError(f"is not a gzipped .npy file: {error}", where=self._path, fix=_FIX) from None
        axes = 3 if member == "observation" else 1
        is_frame = member != "observation" or (
            dtype == np.uint8 and len(shape) == 3 and max(shape[1:]) <= _LARGEST_FRAME
        )
        fits = len(shape) == axes and not fortran and dtype.kind in _DTYPES[member] and is_frame
        if not fits or not 0 < shape[0] <= _MOST_STEPS:
            problem = f"holds {dtype} {shape}, which is not the column {member} of a replay buffer"
            raise RLTransformerError(problem, where=self._path, fix=_FIX)
        return shape, dtype


@contextmanager
def _open_column(path: Path, member: str) -> Iterator[_Column]:
    """Open a column of a buffer inside the block.

    Raises:
        RLTransformerError: The file is missing, or does not hold this column.
    """
    if not path.is_file():
        raise RLTransformerError("is missing, or is not a file", where=path, fix=_FIX)
    with gzip.open(path, "rb") as file:
        yield _Column(file, path, member)


def find_folder(path: Path) -> Path:
    """Return the folder with the buffers: the one that is named, or ``replay_logs`` in it, as they are published."""
    if not path.is_dir():
        fix = "name a folder of replay buffers, such as Pong/1/replay_logs"
        raise RLTransformerError("no such folder", where=path, fix=fix)
    return path / "replay_logs" if (path / "replay_logs").is_dir() else path


def buffer_numbers(folder: Path) -> list[int]:
    """Return the numbers of the buffers in a folder, in order.

    Raises:
        RLTransformerError: There is none, or a file of one is missing.
    """
    found: dict[int, set[str]] = {}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.setdefault(int(match[2]), set()).add(match[1])
    for number, members in sorted(found.items()):
        for member in MEMBERS:
            if member not in members:
                raise RLTransformerError("is missing", where=Buffer(folder, number).path(member), fix=_FIX)
    if not found:
        fix = "name a folder with files such as $store$_observation_ckpt.0.gz"
        raise RLTransformerError("holds no replay buffer", where=folder, fix=fix)
    return sorted(found)


def check_same_shapes(buffers: list[Buffer], folder: Path) -> None:
    """Raise an error if the frames of the buffers differ in size, so that they are not of one game and one recording."""
    shapes = {buffer.number: buffer.shape for buffer in buffers}
    first = shapes[buffers[0].number]
    for number, shape in shapes.items():
        if shape != first:
            problem = f"the frames of buffer {number} are {shape}, those of buffer {buffers[0].number} are {first}"
            raise RLTransformerError(
                problem, where=folder, fix="keep the buffers of one game and recording in a folder"
            )
