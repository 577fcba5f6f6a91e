"""A disk on which one operation fails, in one of several ways."""

import errno
import os

from rl_transformer.runtime.disk import Disk


class Killed(BaseException):
    """The process ends at this point: no handler of the program runs, which tests imitate by `RAISING`."""


ERRORS = {
    "full": errno.ENOSPC,
    "over quota": errno.EDQUOT,
    "broken": errno.EIO,
    "forbidden": errno.EACCES,
    "read-only": errno.EROFS,
}
WAYS = (*ERRORS, "short write", "killed before", "killed after")
OPERATIONS = [name for name in vars(Disk) if not name.startswith("_")]


class FaultyDisk(Disk):
    """Counts its operations; the one of a given number fails."""

    def __init__(self, fails_at=None, way=""):
        self.calls = []
        self.opened = []
        self.fails_at = fails_at
        self.way = way

    def _do(self, name, *args):
        self.calls.append((name, args))
        genuine = getattr(Disk, name) if name != "create" else _remembering(self.opened)
        if len(self.calls) - 1 != self.fails_at:
            return genuine(self, *args)
        if self.way == "killed before":
            raise Killed
        if self.way == "killed after":
            genuine(self, *args)
            raise Killed
        if self.way == "short write":
            _write_half(name, genuine, self, args)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(ERRORS[self.way], os.strerror(ERRORS[self.way]))


def _remembering(opened):
    """Return the operation that creates a file, and keeps it so that a test can close what a killed process left open."""

    def create(disk, path):
        opened.append(Disk.create(disk, path))
        return opened[-1]

    return create


def _write_half(name, genuine, disk, args):
    """Do a half of the operation, where it has one."""
    if name == "write":
        file, data = args
        file.write(bytes(data)[: len(bytes(data)) // 2])
        file.flush()
    elif name == "append":
        path, data = args
        genuine(disk, path, data[: len(data) // 2])
    elif name == "save_tensors":
        genuine(disk, *args)
        path = args[0]
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def _method(name):
    return lambda self, *args: self._do(name, *args)


for _name in OPERATIONS:
    setattr(FaultyDisk, _name, _method(_name))
