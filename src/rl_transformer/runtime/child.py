"""Read a file of unknown origin in a child process first, so that what its library does to a process is one message.

Libraries of file formats are written in C, and files can make them crash, hang, or fill the memory. None of that can be caught
in the process in which it happens.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.remembered import file_stamp, is_remembered, remember
from rl_transformer.runtime.system import end_with_parent, limit_memory
from rl_transformer.runtime.types import JsonObject

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rl_transformer.runtime.child import main; main()"
FIX = "download or copy the file again; if that does not help, do not trust it"
"""Advice about a file that harms the process that reads it."""


def check_in_child(path: Path, checker: str) -> None:
    """Read a file in a child process with limits of memory and time, unless that was done before and it has not changed.

    Args:
        path: A file.
        checker: ``module:function``; the function takes the path and reads all of the file. It may raise an
            `RLTransformerError`, which is raised here. Its other exceptions are ignored, because this process meets them, too,
            when it reads the file itself; the file is then read by a child again at the next time. To start quickly, the
            module should import only the library of the format.

    Raises:
        RLTransformerError: There is no such file, the checker refuses it, or reading it crashes, takes too long or takes too
            much memory.
    """
    if not path.is_file():
        raise RLTransformerError("is not a file" if path.exists() else "no such file", where=path, fix="check the path")
    stamp: JsonObject = {"path": str(path.resolve()), "checker": checker, **file_stamp(path)}
    if is_remembered("checked", path, stamp):
        return
    code, printed = _run_child(path, checker, seconds_to_read(stamp["bytes"]))
    if code != 0 or not printed:
        problem = f"reading it terminates the reading process ({describe_end(code)})"
        raise RLTransformerError(problem, where=path, fix=FIX)
    result = json.loads(printed)
    if "problem" in result:
        raise RLTransformerError(result["problem"], where=path, fix=result["fix"])
    if result["is_whole"] and file_stamp(path).items() <= stamp.items():
        remember("checked", path, stamp)


def _run_child(path: Path, checker: str, seconds: float) -> tuple[int, bytes]:
    """Return the exit code of a child that runs a checker, and what it printed."""
    process = subprocess.Popen(
        child_command(f"{__name__}:check", checker, str(path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    used = SecondsOfProcess(process.pid)
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                printed, _ = process.communicate(timeout=1.0)
                return process.returncode, printed
            if used.after_one_more() >= seconds:
                raise RLTransformerError(f"reading it takes more than {seconds:.0f} seconds", where=path, fix=FIX)
    except BaseException:  # an interruption, too
        process.kill()
        process.communicate()
        raise


def child_command(function: str, *arguments: str) -> list[str]:
    """Return the command of a process that calls ``function``, given as ``module:name``, with limited memory."""
    # -I: neither the present folder nor variables such as PYTHONSTARTUP decide what the child imports; it imports from where
    # this process does.
    most = str(LIMITS["child_bytes"].most)
    return [sys.executable, "-I", "-c", _CODE, json.dumps(sys.path), function, most, *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment variables of such a process."""
    # More threads than one would only reserve memory, which counts; so would Arrow's own ways of allocating it.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_IO_THREADS"), "1")
    return {**os.environ, **one, "ARROW_DEFAULT_MEMORY_POOL": "system"}


def seconds_to_read(num_bytes: float) -> float:
    """Return how long such a process may take to read so many bytes of a file."""
    return LIMITS["child_seconds"].most + num_bytes / 2**20


class SecondsOfProcess:
    """Counts the seconds that a process had to come to a result.

    Those in which it was ready and other processes had the processors do not count (on Linux, which knows them), and neither do
    those in which a terminal had stopped the present process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ticks = 0
        self._waited = _seconds_without_processor(pid)

    def after_one_more(self) -> float:
        """Return the count; call it once for each second that was waited."""
        self._ticks += 1
        return self._ticks - (_seconds_without_processor(self._pid) - self._waited)


def _seconds_without_processor(pid: int) -> float:
    """Return how long the thread of a process that waited most was ready without running."""
    waited = [0.0]
    with suppress(OSError, ValueError, IndexError):  # the process has ended, or this is not Linux
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            waited.append(int(file.read_text(encoding="utf-8").split()[1]) / 1e9)
    return max(waited)


def main() -> None:
    """Call the function that the arguments of this process name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent answers it
    sys.meta_path.insert(0, _WithoutPandas())
    _, _, name, most, *arguments = sys.argv
    function = _function(name)
    limit_memory(int(most))
    function(*arguments)


class _WithoutPandas:
    """Hides pandas from pyarrow, which imports it where it is installed; that would take longer than all else."""

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse pandas, and leave other modules to those who find them."""
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def check(checker: str, path: str) -> None:
    """Run a checker in this process, and print its result as JSON."""
    end_with_parent()
    read = _function(checker)
    result: JsonObject = {"is_whole": True}
    try:
        read(Path(path))
    except RLTransformerError as error:
        result = {"problem": error.problem, "fix": error.fix}
    except MemoryError:
        result = {"problem": f"reading it part by part {too_much_memory()}", "fix": FIX}
    except Exception:
        result = {"is_whole": False}
    sys.stdout.write(json.dumps(result))


def too_much_memory() -> str:
    """Return what is said of a file that needs more memory than this process, which such a command started, may have."""
    return f"takes more than {int(sys.argv[3]) / 2**30:.2g} GiB of memory"


def describe_end(code: int) -> str:
    """Return how a process ended, in words."""
    try:
        return signal.Signals(-code).name
    except ValueError:  # an exit code; on Windows a crash is one, too
        return f"exit code {code}"


def _function(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
