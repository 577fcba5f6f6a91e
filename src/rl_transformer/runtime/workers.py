"""One function in several worker processes, each with one CPU thread."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

_Result = TypeVar("_Result")
_LOOK_EVERY_SECONDS = 0.2


def run_in_processes(
    function: Callable[[int], _Result], count: int, check: Callable[[], None] = lambda: None
) -> list[_Result]:
    """Return [function(0), ..., function(count - 1)], computed at the same time by copies of this process.

    Args:
        function: Need not be importable: a copy has everything that this process has.
        count: Processes.
        check: Called now and then; may raise to stop, and then the processes are killed.

    Raises:
        Exception: What the function raised in a process, with its traceback as a note.
    """
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for which in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(function, which, theirs), daemon=False)
        process.start()
        theirs.close()  # so that its death is noticed here
        pipes.append(ours)
        processes.append(process)
    found: dict[int, _Result] = {}
    try:
        while len(found) < count:
            check()
            for pipe in wait([p for i, p in enumerate(pipes) if i not in found], _LOOK_EVERY_SECONDS):
                assert isinstance(pipe, Connection)
                found[pipes.index(pipe)] = _received(pipe)
    finally:
        for process in processes:
            process.kill()  # those that are not done; the others have nothing left to do
            process.join()
    return [found[which] for which in range(count)]


def _received(pipe: Connection) -> Any:
    try:
        result, error, notes = pipe.recv()
    except EOFError:
        raise RuntimeError("a process that evaluated episodes died: was it killed for its memory?") from None
    if error is not None:
        error.add_note(notes)
        raise error
    return result


def _serve(function: Callable[[int], object], which: int, pipe: Connection) -> None:
    # The parent answers signals, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    try:
        pipe.send((function(which), None, ""))
    except Exception as error:
        notes = traceback.format_exc()
        try:
            pipe.send((None, error, notes))
        except Exception:  # an error that cannot travel
            pipe.send((None, RuntimeError(str(error)), notes))
