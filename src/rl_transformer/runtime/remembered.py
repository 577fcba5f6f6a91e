"""Remember in the user's cache that a file or folder passed a check, until it changes."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.paths import cache_folder
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonObject


def file_stamp(path: Path) -> JsonObject:
    """Return what identifies the present state of a file: size, time of change and number in the file system.

    Raises:
        OSError: There is no such file.
    """
    status = os.stat(path)
    return {"bytes": status.st_size, "changed": status.st_mtime_ns, "inode": status.st_ino}


def is_remembered(check: str, path: Path, stamp: JsonObject) -> bool:
    """Return True if ``path`` passed the check of this name when it had this stamp."""
    place = _place(check, path)
    with suppress(RLTransformerError):  # there is none, or it cannot be read
        return place.exists() and read_json(place, fix="") == stamp
    return False


def remember(check: str, path: Path, stamp: JsonObject) -> None:
    """Store that ``path`` passed a check with this stamp."""
    # In the cache, because the data may be on a disk that cannot be written. A cache that cannot be written costs time only.
    with suppress(RLTransformerError):
        write_text(_place(check, path), to_json(stamp))


def _place(check: str, path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / check / f"{name}.json"
