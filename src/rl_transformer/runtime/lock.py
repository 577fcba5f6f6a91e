"""Let one process at a time write a folder or fill a cache; a lock names its owner, and ends with it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.system import lock_file


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock file inside the block; wait while another process holds it."""
    with _opened(path) as file:
        lock_file(file, wait=True)
        yield


@contextmanager
def owned(path: Path, *, what: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock file inside the block, and refuse to begin, or wait, while another process holds it.

    The file is removed at the end. The lock of a killed process is released by the system, so its file means nothing.

    Args:
        path: The lock file.
        what: What is written under this lock, for the message.
        wait: Wait for another process, whose work takes moments.

    Raises:
        RLTransformerError: Another process holds the lock, and this one does not wait; the message names it.
    """
    while True:
        file = _opened(path)
        if not lock_file(file, wait=wait):
            owner = _read_owner(file)
            file.close()
            raise RLTransformerError(
                f"is being written by another process{owner}",
                where=what,
                fix="wait until it has finished, or stop it; the lock ends with the process",
            )
        # Between opening and locking, the last owner may have removed the file; its lock then keeps out nobody.
        if _is_named(file, path):
            break
        file.close()
    with file:
        _write_owner(file)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file; one that stays is locked by nobody
                path.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b")


def _is_named(file: BinaryIO, path: Path) -> bool:
    """Return True if an open file is the one that now has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_owner(file: BinaryIO) -> None:
    owner = {
        "process": os.getpid(),
        "computer": platform.node(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    file.truncate(0)
    file.write(json.dumps(owner).encode())
    file.flush()


def _read_owner(file: BinaryIO) -> str:
    """Return who holds the lock as text; empty if it cannot be read, for example because it is written just now."""
    try:
        file.seek(0)
        owner = json.loads(file.read(4096))
        return f": {owner['command']} (process {owner['process']} on {owner['computer']} since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
