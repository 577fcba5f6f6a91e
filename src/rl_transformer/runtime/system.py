"""Call what only some operating systems have, with a fallback for the others; no other module makes such calls."""

from __future__ import annotations

import ctypes
import errno
import importlib
import mmap
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, BinaryIO, TextIO

import numpy as np

_POLL_SECONDS = 0.1
_CGROUP = Path("/sys/fs/cgroup")
_LOCKED_BYTE = 1 << 30


SignalHandler = Callable[[int, FrameType | None], object] | int | None
"""What `signal.signal` takes and returns."""


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    # In a container or under a scheduler they can be far fewer than the machine has. macOS and Windows do not tell.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def sync_folder(folder: Path) -> None:
    """Make creations and renames inside ``folder`` durable, where the system offers that."""
    # Names belong to the folder, not to the file: without syncing the folder, a rename can be undone by a power
    # failure. Windows cannot open a folder; its file systems write names to their journal.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(file: BinaryIO, *, wait: bool) -> bool:
    """Lock an open file for this process alone; the system releases it when the file is closed or the process dies.

    Args:
        file: An open file.
        wait: Wait until no other process has the lock; otherwise return False if one has it.
    """
    fcntl = _module("fcntl")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            # Some network file systems have no locks. Refusing to work there would help nobody.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        return True
    msvcrt = importlib.import_module("msvcrt")
    # Windows locks bytes, not files, and its own waiting gives up after ten seconds. The byte is far behind the content,
    # because other processes could not read a locked one.
    while True:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            if not wait:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two existing folders in one step; return False where the system has no such step."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    working_folder = -100  # AT_FDCWD
    both_ways = 2  # RENAME_EXCHANGE
    return rename(working_folder, os.fsencode(one), working_folder, os.fsencode(other), both_ways) == 0


def end_with_parent() -> None:
    """Let the system end this process when the one that started it ends, where it offers that (Linux)."""
    # A killed parent cannot tell its workers to stop, and they would keep memory and cores for ever.
    if sys.platform == "linux":
        set_signal_at_death_of_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_signal_at_death_of_parent, signal.SIGKILL)


def limit_memory(most: int) -> None:
    """Let this process get at most so many bytes of memory, where the system offers that; more raises MemoryError."""
    resource = _module("resource")
    if resource is not None:
        # A limit that is lower already stays. macOS knows the call and does not follow it.
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (lower, hard))


def has_timer() -> bool:
    """Return True if the system can interrupt this process after some time (not Windows)."""
    return hasattr(signal, "setitimer")


def start_timer(seconds: float, again: float, handler: Callable[[int, FrameType | None], None]) -> SignalHandler:
    """Call ``handler`` in the main thread after some seconds, and then again and again; return what `stop_timer` needs."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    return before


def stop_timer(before: SignalHandler) -> None:
    """Call the handler no more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def others_may_read(path: Path) -> bool:
    """Return True if other users than the present one may read a file or folder, as far as the system tells."""
    if not hasattr(os, "geteuid"):  # Windows, whose lists of rights Python does not read
        return False
    status = path.stat()
    return bool(status.st_mode & 0o077) or status.st_uid not in (os.geteuid(), 0)


def widen_pipe(descriptor: int, num_bytes: int) -> None:
    """Let a pipe hold so many bytes, where the system offers that; both sides then wait for each other less often."""
    fcntl = _module("fcntl")
    if fcntl is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a user may have a limited number of wide ones
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, num_bytes)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to stop: of the system, of the keyboard, of a terminal that was closed."""
    closed = getattr(signal, "SIGHUP", None)  # Windows has none
    return (signal.SIGTERM, signal.SIGINT, *([] if closed is None else [closed]))


def can_fork() -> bool:
    """Return True if worker processes may be copies of this one."""
    # macOS has fork, but its own libraries crash in the copy if they had started threads.
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def fork_context() -> multiprocessing.context.ForkContext:
    """Return the means to start such copies; only where `can_fork` is True."""
    return multiprocessing.get_context("fork")


def peak_memory_mib() -> int | None:
    """Return the largest resident memory of this process so far, in MiB; None where the system does not tell."""
    resource = _module("resource")
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def available_memory() -> int | None:
    """Return how many bytes this process can still use without swapping, or being killed; None where nothing tells (not Linux)."""
    found = [_number(Path("/proc/meminfo"), "MemAvailable:", 1024)]
    # A container has less than its machine. What its files take in memory (inactive_file) makes room when it is needed.
    for most, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        limit = _number(_CGROUP / most)
        if limit is not None:
            found.append(limit - (_number(_CGROUP / used) or 0) + (_number(_CGROUP / stat, "inactive_file") or 0))
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _number(path: Path, name: str = "", unit: int = 1) -> int | None:
    """Return the number after a name in a file of the system, or the file's first; None if it has none."""
    with suppress(OSError, ValueError):
        words = path.read_text(encoding="utf-8").split()
        return int(words[words.index(name) + 1 if name else 0]) * unit
    return None


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations, for the rest of this process; without glibc do nothing."""
    # Every update allocates and frees the same tensors. By default glibc returns large blocks to the system, which then
    # has to zero fresh pages for the next update; that took 3 % of a training step.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        # Parameters of mallopt in malloc.h. Blocks below the mmap threshold come from the heap, and the heap shrinks
        # only when more than the trim threshold is free at its end.
        trim_threshold = -1  # M_TRIM_THRESHOLD
        mmap_threshold = -3  # M_MMAP_THRESHOLD
        large = 1 << 30
        mallopt(mmap_threshold, large)
        mallopt(trim_threshold, large)


class ReadAhead:
    """Tells the system which rows of a memory-mapped array are read soon, so that it fetches them from the disk meanwhile."""

    def __init__(self, mapping: mmap.mmap, offset: int, row_bytes: int) -> None:
        self._mapping = mapping
        self._offset = offset
        self._row_bytes = row_bytes

    @classmethod
    def of(cls, array: np.ndarray) -> ReadAhead | None:
        """Return None for an array in memory, and on systems that take no such advice (Windows)."""
        owner: Any = array
        while owner is not None and not isinstance(owner, mmap.mmap):
            owner = getattr(owner, "base", None)
        if owner is None or not hasattr(owner, "madvise") or not array.flags.c_contiguous or not array.ndim:
            return None
        address = np.frombuffer(owner, np.uint8).ctypes.data  # also of a mapping that cannot be written to
        return cls(owner, array.ctypes.data - address, array.strides[0])

    def announce(self, first: int, end: int) -> None:
        """Announce that rows from ``first`` up to ``end`` are read soon; this does not wait for them."""
        begin = self._offset + first * self._row_bytes
        begin -= begin % mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_WILLNEED, begin, self._offset + end * self._row_bytes - begin)


def render_without_screen() -> None:
    """Let MuJoCo render without a screen, unless the user has chosen otherwise; call this before it is imported."""
    # EGL exists on Linux only. Elsewhere MuJoCo's own default is right, and naming EGL makes its import fail.
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")


class SafeStream:
    """A standard stream that never ends the program: what can no longer be written is dropped.

    The reader of a pipe may have ended, a disk may be full, a terminal may be gone, and an encoding may lack a character.
    None of them may cost the work of hours.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        if isinstance(self._stream, TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        return self._safely(self._stream.write, text) or len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        self._safely(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _safely(self, call: Callable[..., Any], *arguments: str) -> Any:
        try:
            return call(*arguments)
        except OSError:
            # Later texts, and Python's last flush at its exit, go nowhere instead of failing again.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None


def _module(name: str) -> ModuleType | None:
    """Return a module of the standard library that exists on some systems only, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
