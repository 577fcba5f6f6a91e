"""HDF5 as data only: no link out of the file, no array larger than what is stored."""

from __future__ import annotations

from pathlib import Path

import h5py

from rl_transformer.errors import RLTransformerError

_MAX_EXPANSION = 1000
_FREE_BYTES = 1 << 26


def open_hdf5(path: Path) -> h5py.File:
    """Open a file read-only, after refusing links, external storage and declared sizes like bombs.

    Raises:
        RLTransformerError: The file is missing, not HDF5, cut off, or holds one of these.
    """
    if not path.is_file():
        raise RLTransformerError("no such file", where=path, fix="check the path")
    try:
        file = h5py.File(path, "r")
        _check(file, path)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RLTransformerError(
            f"cannot be read as HDF5: {error}", where=path, fix="download or copy the file again"
        ) from None
    return file


def _check(group: h5py.Group, path: Path) -> None:
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
            if item.nbytes > max(_FREE_BYTES, stored * _MAX_EXPANSION):
                raise RLTransformerError(
                    f"{name} declares {item.nbytes} bytes and stores {stored}",
                    where=path,
                    fix="use a file that holds its data itself",
                )
