"""The machine that a result depends on: versions, device, threads."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject

_PACKAGES = ("rl-transformer", "torch", "numpy", "gymnasium", "mujoco")


def versions(*more: str) -> dict[str, str]:
    """Return the versions of the packages a score depends on (MuJoCo's changes returns), and of further ones."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def find_device(name: str) -> torch.device:
    """Return the named device, or refuse one that this machine does not have."""
    try:
        # torchrun numbers its processes per machine; process N uses GPU N.
        device = torch.device(
            f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
        )
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RLTransformerError(
            f"cannot be used: {str(error).splitlines()[0]}",
            where=f"training.device={name}",
            fix="use cpu, or a torch build with that device",
        ) from None
    return device


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use ``count`` CPU threads inside the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation, for the rest of this process.

    Every update allocates and frees the same tensors; returning their pages to the system and zeroing new
    ones took 3 % of a training step. Without glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold = -1  # M_TRIM_THRESHOLD of malloc.h
        mmap_threshold = -3  # M_MMAP_THRESHOLD
        large = 1 << 30
        mallopt(mmap_threshold, large)
        mallopt(trim_threshold, large)


def describe_machine(device: str, threads: int | None) -> JsonObject:
    """Return what a result depends on besides configuration and data, for run.json."""
    return {
        "versions": versions(),
        "device": device,
        "threads": threads or torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def describe_hardware() -> JsonObject:
    """Return what a duration depends on: processor, cores, memory in GiB."""
    found: JsonObject = {"machine": platform.machine(), "cores": os.cpu_count()}
    cpuinfo = Path("/proc/cpuinfo")
    meminfo = Path("/proc/meminfo")
    if cpuinfo.exists() and meminfo.exists():
        named = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        found["processor"] = named[0] if named else platform.processor()
        found["memory_gib"] = round(int(meminfo.read_text().split()[1]) / 2**20)
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, if it is one; "-dirty" if it was changed."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
