# ruff: noqa: SIM115  what is opened here belongs to a process, and ends with it
"""Processes that begin as copies of this one: real ones, with limits and ends of their own, without the seconds that imports take."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from unittest import mock

from rl_transformer.runtime import child
from rl_transformer.trajectories.tables import files as table_files
from tests.misfortune.tally import Tally, silenced, without_waiting


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; negative: the signal."""
    output: str
    seconds: float
    cpu_seconds: float
    mebibytes: float
    """The most memory that it, or a process that it started, took beyond what it began with."""
    hangs: bool

    @property
    def wrong(self):
        """What must never happen, in a word or two; empty: nothing."""
        if self.hangs:
            return "hangs"
        if self.code < 0:
            return f"crash ({signal.Signals(-self.code).name})"
        if "Traceback" in self.output or self.code not in (0, 2):
            return f"traceback (exit code {self.code}): {self.output.strip().splitlines()[-1:]}"
        return ""


def run_forked(function, output, *, seconds=60.0, kill_after=None, meanwhile=None):
    """Run a function without arguments in a copy of this process.

    Args:
        function: Returns the exit code.
        output: File for stdout and stderr.
        seconds: A process that takes longer hangs, and is ended.
        kill_after: Seconds after which it gets SIGKILL, with the processes that it started.
        meanwhile: Called with its id every millisecond while it runs.
    """
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(function, output)
    until = began + (seconds if kill_after is None else kill_after)
    ended = 0
    while not ended:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if not ended and time.monotonic() > until:
            break
        if not ended and meanwhile is not None:
            meanwhile(pid)
        time.sleep(0.001)
    hangs = not ended and kill_after is None
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what it started and left
    if not ended:
        _, status, usage = os.wait4(pid, 0)
    text = output.read_text(errors="replace") if output.exists() else ""
    memory = re.search("\0memory ([0-9.]+)\0", text)
    return Ended(
        os.waitstatus_to_exitcode(status),
        re.sub("\0memory.*?\0", "", text),
        time.monotonic() - began,
        usage.ru_utime + usage.ru_stime,
        float(memory[1]) if memory else 0.0,
        hangs,
    )


def attack_forked(root, attack):
    """Let ``attack(tally)`` run in a copy of this process, whose audit hooks end with it; return its counts and what went wrong."""
    found = root / "found.json"

    def run():
        tally = Tally()
        with without_waiting(), silenced():
            attack(tally)
        found.write_text(json.dumps([tally.parts, tally.wrong]))
        return 0

    ended = run_forked(run, root / "output.txt", seconds=7200)
    assert not ended.wrong, ended.output
    parts, wrong = json.loads(found.read_text())
    return parts, wrong


def import_what_it_imports(function, output):
    """Run a function in a copy of this process, and import here what it imported, so that later copies need not do it."""
    before = set(sys.modules)

    def run():
        code = function()
        print(*(f"imported {name}" for name in list(sys.modules)), sep="\n")
        return code

    ended = run_forked(run, output)
    for line in ended.output.splitlines():
        name = line.removeprefix("imported ")
        if name != line and name not in before:
            with suppress(Exception):
                import_module(name)
    return ended


def _become(function, output):
    code = 1
    try:
        os.setpgid(0, 0)
        before = resident_mebibytes()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False)
        code = function()
    except BaseException:
        traceback.print_exc()
    finally:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        # A process that it started was a copy of it at first, and counts as that large; only what goes beyond is its own.
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        most = max(most, children if children > before + 64 else 0)
        print(f"\0memory {most:.1f}\0", end="", flush=True)
        sys.stderr.flush()
        os._exit(code)


def resident_mebibytes():
    """Return the memory that this process takes now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class ForkedReader:
    """Stands for the `subprocess` module where a file of a stranger is read by another process.

    That process is a copy of this one, not a new interpreter: it has the same limits and dies the same deaths.
    """

    DEVNULL = subprocess.DEVNULL
    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired

    class Popen:
        """A process that runs the function of a command of `runtime.child`."""

        def __init__(self, command, env, **_):
            here_in, self._to = os.pipe()
            self._from, here_out = os.pipe()
            self.pid = os.fork()
            if self.pid == 0:
                _become_reader(command, env, here_in, here_out)
            os.close(here_in)
            os.close(here_out)
            self.stdin = open(self._to, "wb")
            self.stdout = open(self._from, "rb")
            self.returncode = None

        def poll(self):
            return self._wait(os.WNOHANG)

        def wait(self, timeout=None):
            until = time.monotonic() + (timeout or 1e9)
            while self._wait(os.WNOHANG) is None:
                if time.monotonic() > until:
                    raise subprocess.TimeoutExpired("reader", timeout)
                time.sleep(0.0005)
            return self.returncode

        def _wait(self, options):
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, options)
                if ended:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

        def communicate(self, timeout=None):
            """Wait for its end, and return its output, which is less than a pipe holds."""
            self.stdin.close()
            self.wait(timeout)
            with self.stdout:
                return self.stdout.read(), b""

        def kill(self):
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)


def _become_reader(command, env, stdin, stdout):
    code = 1
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.closerange(3, 4096)  # pipes of other readers, which would not end while this one holds them
        sys.stdin = open(0)
        sys.stdout = open(1, "w")
        sys.argv = ["-c", *command[4:]]
        json.loads(sys.argv[1])
        os.environ.update(env)
        child.main()
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


@contextmanager
def forked_readers():
    """Let a reader of HDF5 and tables be a copy of this process, which starts in milliseconds."""
    with (
        mock.patch.object(child, "subprocess", ForkedReader),
        mock.patch.object(table_files, "subprocess", ForkedReader),
    ):
        yield
