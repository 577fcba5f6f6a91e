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
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.remembered import file_stamp, is_remembered, remember
from rl_transformer.runtime.system import end_with_parent, limit_memory
from rl_transformer.runtime.types import JsonObject

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rl_transformer.runtime.child import main; main()"
_FIX = "download or copy the file again; if that does not help, do not trust it"


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
        raise RLTransformerError("is no file" if path.exists() else "no such file", where=path, fix="check the path")
    stamp: JsonObject = {"path": str(path.resolve()), "checker": checker, **file_stamp(path)}
    if is_remembered("checked", path, stamp):
        return
    seconds = LIMITS["child_seconds"].most + stamp["bytes"] / 2**20
    # -I: neither the present folder nor variables such as PYTHONSTARTUP decide what the child imports; it imports from where
    # this process does.
    most = LIMITS["child_bytes"].most
    command = [sys.executable, "-I", "-c", _CODE, json.dumps(sys.path), checker, str(path), str(most)]
    # More threads than one would only reserve memory, which counts.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise RLTransformerError(f"reading it takes more than {seconds:.0f} seconds", where=path, fix=_FIX) from None
    if done.returncode != 0 or not done.stdout:
        problem = f"reading it ends the process that does ({_end(done.returncode)})"
        raise RLTransformerError(problem, where=path, fix=_FIX)
    result = json.loads(done.stdout)
    if "problem" in result:
        raise RLTransformerError(result["problem"], where=path, fix=result["fix"])
    if result["is_whole"] and file_stamp(path).items() <= stamp.items():
        remember("checked", path, stamp)


def main() -> None:
    """Run the checker that the arguments of this process name, and print its result as JSON."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent answers it
    _, _, checker, path, most = sys.argv
    module, _, function = checker.partition(":")
    check = getattr(importlib.import_module(module), function)
    limit_memory(int(most))
    result: JsonObject = {"is_whole": True}
    try:
        check(Path(path))
    except RLTransformerError as error:
        result = {"problem": error.problem, "fix": error.fix}
    except MemoryError:
        problem = f"reading it part by part takes more than {int(most) / 2**30:.2g} GiB of memory"
        result = {"problem": problem, "fix": _FIX}
    except Exception:
        result = {"is_whole": False}
    sys.stdout.write(json.dumps(result))


def _end(code: int) -> str:
    """Return how a process ended, in words."""
    try:
        return signal.Signals(-code).name
    except ValueError:  # an exit code; on Windows a crash is one, too
        return f"exit code {code}"
