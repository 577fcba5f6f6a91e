"""Claims about stop signals: the first one is a flag, the second one ends the process, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys

import pytest

from rl_transformer.runtime.signals import Interrupted, StopSignals

HANGING = """
import os, signal, sys, time
from rl_transformer.runtime.signals import StopSignals
signals = StopSignals()
signals.patient = len(sys.argv) > 1
with signals:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        print(signals.received, flush=True)
print("saved", flush=True)
"""


def run_hanging(*arguments):
    command = [sys.executable, "-c", HANGING, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_second_signal_ends_the_process_at_once_with_its_code():
    done = run_hanging()
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, f"{int(signal.SIGTERM)}\n")
    assert done.stderr == ""


def test_a_worker_may_get_a_signal_twice():
    """From the terminal, and from its parent."""
    done = run_hanging("patient")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "saved")


SHARED = """
import os, signal
from rl_transformer.runtime.signals import StopSignals
with StopSignals() as signals:
    signals.received = signal.SIGTERM  # as shared by the processes that train together
    os.kill(os.getpid(), signal.SIGINT)
    print(signals.received, flush=True)
"""


def test_the_first_signal_after_that_of_another_process_only_sets_the_flag():
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{int(signal.SIGINT)}\n")


@pytest.fixture
def own_handlers():
    """Handlers of the program that trains; under nohup, SIGHUP would be ignored."""
    handlers = {number: lambda *_: None for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield handlers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_handlers_from_before_are_restored(own_handlers):
    with StopSignals():
        assert all(signal.getsignal(number) != handler for number, handler in own_handlers.items())
    assert {number: signal.getsignal(number) for number in own_handlers} == own_handlers


def test_a_signal_raises_inside_an_interruptible_block_and_nowhere_else():
    with StopSignals() as signals:
        with signals.at_once():
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # raises nothing: an optimizer step or a file write may be under way
        assert signals.received == signal.SIGTERM
        with pytest.raises(Interrupted, match="stopped by SIGTERM"), signals.at_once():
            pytest.fail("the block began although a signal was waiting")
    with StopSignals() as signals, signals.at_once(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


IMPORTING = """
import importlib.abc, os, signal, sys

class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "rl_transformer.cli.main" and len(sys.argv) > 1:
            os.kill(os.getpid(), signal.SIGINT)

from rl_transformer.__main__ import entry
sys.meta_path.insert(0, Interrupts())
import rl_transformer.cli
if len(sys.argv) == 1:
    from rl_transformer.cli import main
    main.entry = lambda: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
entry()
"""


def test_ctrl_c_while_the_command_is_imported_prints_no_traceback_of_an_import():
    command = [
        sys.executable,
        "-c",
        f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{IMPORTING}",
    ]
    stopped = subprocess.run([*command, "interrupted"], capture_output=True, text=True, timeout=60, check=False)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (-signal.SIGINT, "", "")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
