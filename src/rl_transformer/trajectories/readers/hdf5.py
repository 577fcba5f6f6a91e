"""Open HDF5 files of unknown origin safely: without links out of the file and without oversized arrays."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from rl_transformer.errors import RLTransformerError

# Largest ratio of declared to stored bytes. Gzip reaches it with nothing but constant data.
_MAX_EXPANSION = 1000
# Arrays of up to 64 MiB are harmless whatever their ratio, for example small ones that were never written.
_FREE_BYTES = 1 << 26


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading, after checking that it only contains data of its own.

    Raises:
        RLTransformerError: The file is missing, damaged or not HDF5, contains a link or external storage, or declares
            an array far larger than its stored data.
    """
    if not path.is_file():
        raise RLTransformerError("no such file", where=path, fix="check the path")
    with translate_read_errors(path):
        file = h5py.File(path, "r")
        _check(file, path)
    return file


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


def _check(group: h5py.Group, path: Path) -> None:
    """Raise an `RLTransformerError` if a group, or a group inside it, contains something unsafe."""
    # HDF5 has three ways to read another file: external links, external storage and virtual datasets. A downloaded
    # file could use them to copy a private file of the user into a dataset, and from there into a published store.
    # Nothing that records episodes needs any of them, nor soft links.
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise RLTransformerError(f"{name} is a link", where=path, fix="use a file that holds its data itself")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check(item, path)
        elif isinstance(item, h5py.Dataset):
            stored = item.id.get_storage_size()
            if item.is_virtual or item.external:
                raise RLTransformerError(
                    f"{name} keeps its data in another file", where=path, fix="use a file that holds its data itself"
                )
            # A few bytes can declare terabytes of zeros, and reading them would exhaust the memory.
            if item.nbytes > max(_FREE_BYTES, stored * _MAX_EXPANSION):
                raise RLTransformerError(
                    f"{name} claims {item.nbytes} bytes but stores only {stored}",
                    where=path,
                    fix="use a file that holds its data itself",
                )
