"""Check an HDF5 file of unknown origin by reading all of it: `runtime.child` runs this in a process of its own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import h5py

from rl_transformer.errors import RLTransformerError

# Largest ratio of declared to stored bytes. Gzip reaches it with nothing but constant data.
_MAX_EXPANSION = 1000
# Arrays of up to 64 MiB are harmless whatever their ratio, for example small ones that were never written.
_FREE_BYTES = 1 << 26
# Arrays are read in parts of about this size.
_PART_BYTES = 1 << 24
_FIX = "use a file that holds its data itself"


def check_hdf5(path: Path) -> None:
    """Read every array and attribute of a file, after checking that it only contains data of its own.

    Raises:
        RLTransformerError: The file contains a link or external storage, or declares an array far larger than its stored
            data.
        Exception: Something cannot be read; everything else was looked at.
    """
    errors: list[Exception] = []
    with h5py.File(path, "r") as file:
        waiting: list[h5py.Group] = [file]
        # A group may be in itself, or in a thousand others; each is looked at once.
        seen = {_address(file["/"])}
        while waiting:
            for item in _members(waiting.pop(), path, errors):
                if _address(item) in seen:
                    continue
                seen.add(_address(item))
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif isinstance(item, h5py.Dataset):
                    _check_array(item, path)
                    _read(item, errors)
    if errors:
        raise errors[0]


def _members(group: h5py.Group, path: Path, errors: list[Exception]) -> list[h5py.HLObject]:
    """Return what is in a group.

    Raises:
        RLTransformerError: It contains a link, or something whose name is no text.
    """
    # HDF5 has three ways to read another file: external links, external storage and virtual datasets. A downloaded
    # file could use them to copy a private file of the user into a dataset, and from there into a published store.
    # Nothing that records episodes needs any of them, nor soft links.
    members = []
    for name in group:
        if not isinstance(name, str):  # bytes that are no UTF-8
            raise RLTransformerError(
                f"{name!r:.100} is not a valid name", where=path, fix="download or copy the file again"
            )
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise RLTransformerError(f"{name} is a link", where=path, fix=_FIX)
        try:
            members.append(group[name])
        except MemoryError:
            raise
        except Exception as error:
            errors.append(error)
    return members


def _check_array(array: h5py.Dataset, path: Path) -> None:
    """Raise an `RLTransformerError` if an array is not a part of the file, or declares too much."""
    name = str(array.name).rpartition("/")[2]
    if array.is_virtual or array.external:
        raise RLTransformerError(f"{name} keeps its data in another file", where=path, fix=_FIX)
    # A few bytes can declare terabytes of zeros, and reading them would exhaust the memory.
    stored = array.id.get_storage_size()
    if array.nbytes > max(_FREE_BYTES, stored * _MAX_EXPANSION):
        problem = f"{name} claims {array.nbytes} bytes but stores only {stored}"
        raise RLTransformerError(problem, where=path, fix=_FIX)


def _read(array: h5py.Dataset, errors: list[Exception]) -> None:
    """Read an array and its attributes part by part, and collect what is raised."""
    try:
        for name in array.attrs:
            array.attrs[name]
        if not array.shape:  # a scalar, or nothing
            array[()]
            return
        rows = len(array)
        step = max(1, _PART_BYTES * rows // max(array.nbytes, 1))
        chunk = array.chunks[0] if array.chunks else 1
        step = -(-step // chunk) * chunk  # whole chunks: each is decompressed once
        for start in range(0, rows, step):
            array[start : start + step]
    except Exception as error:
        # HDF5 reports a failed allocation as an error of reading.
        if isinstance(error, MemoryError) or "memory allocation failed" in str(error):
            raise MemoryError from None
        errors.append(error)


def _address(item: h5py.HLObject) -> int:
    """Return a number that is the same for every name of a group or array."""
    with suppress(Exception):
        return hash(item.id)  # of its file and its place there
    return id(item)
