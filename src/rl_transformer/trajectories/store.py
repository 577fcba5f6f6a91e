"""Write and open stores (`rlt:` URIs), which hold one memory-mapped .npy file per column."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import (
    below,
    check_format,
    read_json,
    to_json,
    verify_folder,
    write_folder,
    write_text,
)
from rl_transformer.runtime.plugins import refuse_named_plugins
from rl_transformer.trajectories.checks import Checker, Finding, raise_on_errors
from rl_transformer.trajectories.columns import EPISODE_COLUMNS, STEP_COLUMNS, Summary, build_columns
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.statistics import ObservationStatistics
from rl_transformer.trajectories.trajectory import Trajectory

FORMAT_VERSION = 1
# Files that every store has. Final observations and statistics depend on the data.
_REQUIRED = ("store.json", *(f"{name}.npy" for name in (*STEP_COLUMNS, *EPISODE_COLUMNS[:-1])))


class _GrowingArray:
    """Appends rows to a .npy file whose number of rows is not known in advance."""

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self.dtype = rows.dtype
        self.row_shape = rows.shape[1:]
        self.num_rows = 0
        self.path = path
        self._file: BinaryIO = path.open("wb")
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
        self._file.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def close(self) -> None:
        """Write the final header and close the file."""
        self._file.seek(0)
        self._write_header()
        self._file.close()


def write_store(
    folder: Path, spec: DataSpec, trajectories: Iterable[Trajectory], *, notes: Iterable[Finding] = ()
) -> TrajectoryDataset:
    """Write trajectories to a store, with one of them in memory at a time, and return the opened store.

    Returns-to-go, statistics, findings and hashes are computed once, while writing.

    Args:
        folder: Folder to write; it must be empty or absent.
        spec: Spaces of the data.
        trajectories: The episodes; read once.
        notes: Findings of the reader to store with the data.

    Raises:
        RLTransformerError: The folder is not empty, or the data would corrupt training; then nothing is written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RLTransformerError(
            "exists already and is not empty", where=folder, fix="name another folder, or remove this one"
        )

    def fill(temporary: Path) -> dict:
        """Write the columns, and return the fields of the manifest."""
        arrays: dict[str, _GrowingArray] = {}

        def append(name: str, rows: np.ndarray) -> None:
            # Names of extra columns come from the source's file, hence `below`.
            if name not in arrays:
                arrays[name] = _GrowingArray(below(temporary, f"{name}.npy"), rows)
            arrays[name].append(rows)

        summary = build_columns(spec, trajectories, append, checker := Checker(spec))
        for array in arrays.values():
            array.close()
        for note in notes:
            checker.add_finding(note.level, note.kind, note.field, note.problem, note.fix, count=note.count)
        # An exception here makes write_folder remove the temporary folder, so bad data leaves nothing behind.
        raise_on_errors(checker.findings, spec.source or folder)
        if not arrays:
            raise RLTransformerError("holds no episode", where=spec.source or folder, fix="give at least one episode")
        _write_summary(temporary, summary)
        info = {"format_version": FORMAT_VERSION, "fingerprint": summary.fingerprint, "step_columns": sorted(arrays)}
        findings = [finding.to_dict() for finding in checker.findings]
        write_text(temporary / "store.json", to_json({**info, **spec.to_dict(), "findings": findings}))
        return {"format_version": FORMAT_VERSION}

    if folder.exists():
        folder.rmdir()  # fails if something was put into it since the check above
    write_folder(folder, fill)
    return open_store(folder)


def _write_summary(folder: Path, summary: Summary) -> None:
    """Write the arrays with one row per episode, and the statistics."""
    # allow_pickle=False: an object array would be written in a form that can run code when it is read.
    for name in EPISODE_COLUMNS:
        values = getattr(summary, name)
        if values is not None:
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
    if summary.statistics is not None:
        np.save(folder / "observation_mean.npy", summary.statistics.mean, allow_pickle=False)
        np.save(folder / "observation_std.npy", summary.statistics.std, allow_pickle=False)


def open_store(folder: Path, *, verify: bool = False) -> TrajectoryDataset:
    """Open a store by mapping its columns into memory.

    Args:
        folder: A folder written by `write_store`.
        verify: Compare the hash of every file, which reads all bytes; otherwise only existence and sizes are checked.

    Raises:
        RLTransformerError: The folder is missing, damaged or of a later version, or its columns do not fit each other.
    """
    again = "write the store again with rlt convert or rlt collect"
    if not folder.is_dir():
        raise RLTransformerError(
            "no such folder", where=folder, fix="name a store written by rlt collect or rlt convert"
        )
    manifest = verify_folder(folder, required=_REQUIRED, hashes=verify)
    info = read_json(below(folder, "store.json"), fix=again)
    check_format(info, FORMAT_VERSION, where=folder / "store.json")
    refuse_named_plugins(info, where=folder / "store.json")
    spec = DataSpec.from_dict(info, where=folder / "store.json")
    # Only files that the manifest lists are opened: their sizes were checked, and a stray file in the folder is
    # ignored.
    names = [name.removesuffix(".npy") for name in manifest["files"] if name.endswith(".npy")]
    arrays = {name: _map(below(folder, f"{name}.npy"), again) for name in names}
    try:
        steps = {name: arrays[name] for name in info["step_columns"]}
        summary = Summary(
            offsets=arrays["offsets"],
            terminated=arrays["terminated"],
            truncated=arrays["truncated"],
            episode_returns=arrays["episode_returns"],
            final_observations=arrays.get("final_observations"),
            statistics=ObservationStatistics(arrays["observation_mean"], arrays["observation_std"])
            if "observation_mean" in arrays
            else None,
            findings=[Finding.from_dict(finding) for finding in info["findings"]],
            fingerprint=str(info["fingerprint"]),
        )
        consistent = _is_consistent(spec, steps, summary)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        # Hashes show damage, not a store that some other program wrote in a wrong way.
        raise RLTransformerError(f"a field is missing or malformed: {error}", where=folder, fix=again) from None
    if not consistent:
        raise RLTransformerError("columns are missing, or their shapes do not fit each other", where=folder, fix=again)
    return TrajectoryDataset(spec, steps, summary, f"rlt:{folder}")


def _is_consistent(spec: DataSpec, steps: dict[str, np.ndarray], summary: Summary) -> bool:
    """Return True if the shapes of all columns fit the spaces and the offsets."""
    offsets = summary.offsets
    shape = spec.observation_space.flat_shape
    # Gathering indexes the columns by offsets without further checks. Wrong offsets would silently mix up episodes.
    if (
        offsets.dtype != np.int64
        or offsets.ndim != 1
        or len(offsets) < 2
        or offsets[0] != 0
        or (np.diff(offsets) < 1).any()
    ):
        return False
    rows = {"observations": shape, "actions": spec.action_space.action_shape, "rewards": (), "returns_to_go": ()}
    per_episode = (summary.terminated, summary.truncated, summary.episode_returns)
    return (
        all(len(column) == offsets[-1] for column in steps.values())
        and all(steps[name].shape[1:] == row for name, row in rows.items())
        and all(column.shape == (len(offsets) - 1,) for column in per_episode)
        and (summary.statistics is None or summary.statistics.mean.shape == summary.statistics.std.shape == shape)
    )


def _map(path: Path, fix: str) -> np.ndarray:
    """Return the array in a .npy file without reading it; pages are loaded on first access."""
    try:
        # Mode "c" is copy-on-write: torch.from_numpy warns about read-only arrays, and this one counts as writable
        # although the file can never change. Nothing writes to it, so all processes share the pages.
        # asarray drops the memmap subclass, whose overhead on every access exceeds the cost of the slice itself.
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, OSError) as error:
        raise RLTransformerError(f"cannot be mapped: {error}", where=path, fix=fix) from None
