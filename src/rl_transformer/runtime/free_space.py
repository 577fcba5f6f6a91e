"""Tell how much room a disk has."""

from __future__ import annotations

import shutil
from pathlib import Path

from rl_transformer.errors import RLTransformerError


def check_disk_space(folder: Path, needed: int, *, what: str) -> None:
    """Check that a disk has room before the work begins whose results it shall hold.

    Args:
        folder: Where the files will be; it need not exist.
        needed: Bytes.
        what: What needs them, for the message.

    Raises:
        RLTransformerError: Less is free.
    """
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RLTransformerError(
            f"{what} take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free",
            where=folder,
            fix="free disk space there, or name a folder on another disk",
        )


def free_text(path: Path) -> str:
    """Return the free space of the disk of a path as text."""
    existing = next((parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists()), None)
    return "an unknown amount" if existing is None else f"{shutil.disk_usage(existing).free / 2**20:,.0f} MiB"
