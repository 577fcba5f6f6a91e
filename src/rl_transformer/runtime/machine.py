"""Select the device and threads, and describe the machine that results depend on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject

_PACKAGES = ("rl-transformer", "torch", "numpy", "gymnasium", "mujoco", "gymnasium-robotics")


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python and of packages that scores depend on, as far as they are installed.

    MuJoCo is one of them: the same actions yield other returns in another version.

    Args:
        more: Further packages to include.
    """
    installed = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        version = _installed_version(package)
        if version is not None:
            installed[package] = version
    return installed


@cache  # a file is searched for and read, and a run needs all of them twice
def _installed_version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def find_device(name: str, *, where: str = "training.device") -> torch.device:
    """Return the device ``name``: cpu, cuda or cuda:N.

    Raises:
        RLTransformerError: This machine does not have the device, or this build of torch does not support it.
    """
    where = f"{where}={name}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        fix = "did you mean cuda? the default is cpu" if name.startswith("gpu") else "use cpu, cuda or cuda:N"
        raise RLTransformerError("is not a device that this library supports", where=where, fix=fix)
    try:
        # torchrun numbers the processes on a machine by LOCAL_RANK; process N uses GPU N.
        device = torch.device(
            f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
        )
        # The name alone can be valid without a driver or with fewer GPUs; an allocation shows whether the device works.
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RLTransformerError(
            f"cannot be used: {str(error).splitlines()[0]}",
            where=where,
            fix="use cpu (the default), or install a torch build for this GPU",
        ) from None
    return device


class CoreMonitor:
    """Notices that the thread that computes does not get a core of its own, so that fewer threads could be faster."""

    # Fewer than a few seconds say nothing, because the first updates also compile and allocate.
    _SECONDS = 10.0
    _ENOUGH = 0.7

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._wall = time.monotonic()
        self._cpu = time.thread_time()
        self._done = threads == 1

    def note(self) -> str | None:
        """Return advice once, after some seconds, if the thread was kept waiting; otherwise None."""
        wall = time.monotonic() - self._wall
        if self._done or wall < self._SECONDS:
            return None
        self._done = True
        # A thread that waits, for others that do not get a core or for the disk, uses no processor time.
        share = (time.thread_time() - self._cpu) / wall
        if share >= self._ENOUGH:
            return None
        return (
            f"note: the training thread computed for only {100 * share:.0f} % of the first {wall:.0f} s; if other "
            f"programs use the cores, --training.threads 1, also with --resume, can be several times faster than {self._threads}"
        )


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use ``count`` CPU threads inside the block; None keeps the present number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: str, threads: int | None) -> JsonObject:
    """Return versions, device, threads and commit, on which results depend in addition to configuration and data."""
    return {
        "versions": versions(),
        "device": device,
        "threads": threads or torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def describe_hardware() -> JsonObject:
    """Return processor, cores and memory (GiB), on which durations depend."""
    description: JsonObject = {"machine": platform.machine(), "cores": os.cpu_count()}
    # platform.processor() is empty or unspecific on Linux; /proc has the model's name.
    cpuinfo = Path("/proc/cpuinfo")
    meminfo = Path("/proc/meminfo")
    if cpuinfo.exists() and meminfo.exists():
        named = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        description["processor"] = named[0] if named else platform.processor()
        description["memory_gib"] = round(
            int(meminfo.read_text(encoding="utf-8").split()[1]) / 2**20
        )  # MemTotal, in KiB
    return description


@cache
def code_version() -> str:
    """Return the version of this package, and the commit if it runs from a checkout."""
    commit = git_commit()
    version = versions().get("rl-transformer", "unknown")
    return version if commit is None else f"{version} ({commit[:10]}{'-dirty' if commit.endswith('-dirty') else ''})"


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with -dirty if it has changes, or None."""
    if shutil.which("git") is None:
        return None
    # --exclude=* ignores tags, so that the answer is always a hash.
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
