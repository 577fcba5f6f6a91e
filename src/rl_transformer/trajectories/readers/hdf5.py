"""Open HDF5 files of unknown origin safely, and translate the errors of their library."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.child import check_in_child


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, after a child process has read all of it.

    Raises:
        RLTransformerError: The file is missing, damaged or not HDF5, contains a link or external storage, declares an array
            far larger than its stored data, or reading it crashes, hangs or fills the memory.
    """
    check_in_child(path, "rl_transformer.runtime.hdf5:check_hdf5")
    with translate_read_errors(path):
        return h5py.File(path, "r")


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Translate an error of h5py inside the block, such as a damaged chunk, into one that names the file and the fix.

    Raises:
        RLTransformerError: Reading failed.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        problem, fix = _explain(error)
        raise RLTransformerError(problem, where=path, fix=fix) from None


def _explain(error: Exception) -> tuple[str, str]:
    """Return what is wrong with a file, and the fix, from an error of h5py."""
    text = str(error)
    # HDF5 reports errors of the operating system by number and text.
    code = error.errno if isinstance(error, OSError) else None
    if "unable to lock file" in text or code in (errno.EAGAIN, errno.EWOULDBLOCK):
        fix = "close the program that writes it, or copy the file and read the copy"
        return f"is locked, because another program has it open for writing: {text}", fix
    if code in (errno.EACCES, errno.EPERM) or "Permission denied" in text:
        return "cannot be read: permission denied", "ask for the permission to read it: chmod u+r"
    if "file signature not found" in text:
        fix = "name an HDF5 file, or see rlt inspect --help for other formats"
        return "cannot be read as HDF5: it is a file of another kind", fix
    return f"cannot be read as HDF5: {text}", "download or copy the file again"
