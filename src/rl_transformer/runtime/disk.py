"""The operations that change files. All writers use them, so that tests can let each single one fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rl_transformer.runtime import system

if TYPE_CHECKING:
    from torch import Tensor


class Disk:
    """Changes files and folders; every method is one step, after which a process may be killed."""

    def make_folder(self, path: Path) -> None:
        """Create a folder, which must not exist."""
        path.mkdir()

    def create(self, path: Path) -> BinaryIO:
        """Create a file, which must not exist, and open it for writing."""
        return path.open("xb")

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Write bytes at the file's position."""
        file.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Append bytes to a file, durably."""
        with path.open("ab") as file:
            file.write(data)
            # flush() empties Python's buffer, fsync() that of the operating system.
            file.flush()
            os.fsync(file.fileno())

    def save_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write a new safetensors file."""
        from safetensors.torch import save_file

        # safetensors creates files that only their owner can read. Created here first, the file has the permissions
        # that the user's umask gives.
        path.touch(exist_ok=False)
        permissions = path.stat().st_mode
        save_file(dict(tensors), path, metadata={"format": "pt"})
        path.chmod(permissions)

    def sync(self, path: Path) -> None:
        """Wait until a file's content is on the disk."""
        with path.open("rb") as file:  # any descriptor of a file syncs it
            os.fsync(file.fileno())

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name; a file or an empty folder of that name is replaced."""
        old.replace(new)

    def exchange(self, one: Path, other: Path) -> bool:
        """Exchange the names of two folders in one step; return False if the system cannot."""
        return system.exchange(one, other)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        system.sync_folder(folder)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder with all that is in it."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


DISK = Disk()
"""The operations in use; call them as ``disk.DISK``, because tests replace it."""
