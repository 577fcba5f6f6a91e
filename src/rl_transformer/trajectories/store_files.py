"""Write the files of a store: one .npy file per column, and store.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk
from rl_transformer.runtime.files import to_json, write_array, write_folder, write_text
from rl_transformer.runtime.paths import below, user_path
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.blocks import EpisodeBlock, Episodes
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.columns import EPISODE_COLUMNS, Summary, build_columns, column_file
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding, raise_on_errors
from rl_transformer.trajectories.trajectory import Trajectory

FORMAT_VERSION = 1
SHARDED_FORMAT_VERSION = 2  # of stores whose columns lie in several folders; all others can be read by every version


class _GrowingArray:
    """Appends rows to a .npy file whose number of rows is not known in advance."""

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self.dtype = rows.dtype
        self.row_shape = rows.shape[1:]
        self.num_rows = 0
        self.path = path
        self._file: BinaryIO = disk.DISK.create(path)
        self._write_header()

    def _write_header(self) -> None:
        # A .npy header contains the shape, and rows follow it directly, so the header cannot grow once rows are
        # written. NumPy pads it with spaces so that the first dimension can become a number of up to 21 digits: the
        # header is written with 0 rows first, and again over the same bytes with the true number when the file is
        # closed.
        shape = (self.num_rows, *self.row_shape)
        npy.write_array_header_1_0(
            self._file, {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        )

    def append(self, rows: np.ndarray) -> None:
        """Append rows of the same dtype and shape as the first ones.

        Raises:
            RLTransformerError: Another dtype or shape.
        """
        if rows.dtype != self.dtype or rows.shape[1:] != self.row_shape:
            raise RLTransformerError(
                f"rows of {rows.dtype} {rows.shape[1:]} after rows of {self.dtype} {self.row_shape}",
                where=self.path.stem,
                fix="give every episode arrays of one type and shape",
            )
        # A view of bytes, because a view of empty or of wide rows cannot be written as it is.
        disk.DISK.write(self._file, np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self.num_rows += len(rows)

    def close(self) -> None:
        """Write the final header and close the file."""
        with self._file:
            self._file.seek(0)
            self._write_header()


def store_folder(folder: str | Path) -> Path:
    """Return the path of a store that a user gave, perhaps as its URI: ``rlt:walks`` for ``walks``."""
    return user_path(str(folder).removeprefix("rlt:"))


def write_columns(
    folder: str | Path,
    spec: DataSpec,
    trajectories: Episodes,
    *,
    notes: Iterable[Finding] = (),
    checker: Checker | None = None,
) -> Path:
    """Write trajectories to a store, with one of them (or one block) in memory at a time, and return its folder.

    Returns-to-go, statistics, findings and hashes are computed once, while writing.

    Args:
        folder: Folder to write; it must be empty or absent.
        spec: Spaces of the data.
        trajectories: The episodes; read once.
        notes: Findings of the reader to store with the data.
        checker: Collects the findings; None: a new one.

    Raises:
        RLTransformerError: The folder is not empty, or the data would corrupt training; then nothing is written.
    """
    folder = store_folder(folder).resolve()
    checker = checker or Checker(spec)

    def fill(temporary: Path) -> dict:
        """Write the columns, and return the fields of the manifest."""
        arrays: dict[str, _GrowingArray] = {}
        with ExitStack() as open_files:

            def append(name: str, rows: np.ndarray) -> None:
                # Names of extra columns come from the source's file, hence `below`.
                if name not in arrays:
                    arrays[name] = _GrowingArray(below(temporary, column_file(name)), rows)
                    open_files.callback(arrays[name].close)  # also after an error
                arrays[name].append(rows)

            summary = build_columns(spec, _read(trajectories, spec.source), append, checker)
        checker.add_notes(notes)
        # An exception here makes write_folder remove the temporary folder, so bad data leaves nothing behind.
        raise_on_errors(checker.findings, spec.source or folder)
        if not arrays:
            raise RLTransformerError("holds no episode", where=spec.source or folder, fix="give at least one episode")
        info = {"format_version": FORMAT_VERSION, "step_columns": sorted(arrays)}
        write_summary(temporary, spec, replace(summary, findings=checker.findings), info)
        return {"format_version": FORMAT_VERSION}

    write_folder(folder, fill, replace=False)
    return folder


def _read(trajectories: Episodes, source: str) -> Iterator[Trajectory | EpisodeBlock]:
    """Yield the episodes; an error while reading them must not look like one of writing the store."""
    episodes = iter(trajectories)
    while True:
        try:
            episode = next(episodes)
        except StopIteration:
            return
        except OSError as error:
            raise RLTransformerError(
                f"cannot be read: {error}", where=source or "the data", fix="download or copy the data again"
            ) from error
        yield episode


def write_summary(folder: Path, spec: DataSpec, summary: Summary, info: JsonObject) -> None:
    """Write the arrays with one row per episode, the statistics, and store.json with some further fields."""
    for name in EPISODE_COLUMNS:
        values = getattr(summary, name)
        if values is not None:
            write_array(folder / f"{name}.npy", values)
    if summary.statistics is not None:
        write_array(folder / "observation_mean.npy", summary.statistics.mean)
        write_array(folder / "observation_std.npy", summary.statistics.std)
    findings = [finding.to_dict() for finding in summary.findings]
    fields = {**info, "fingerprint": summary.fingerprint, **spec.to_dict(), "findings": findings}
    write_text(folder / "store.json", to_json(fields))
