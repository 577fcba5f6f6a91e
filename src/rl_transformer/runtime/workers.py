"""Run a function in several worker processes, each with one CPU thread."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.system import end_with_parent, fork_context

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.2  # so that a stop signal is noticed although every worker is busy


def run_in_processes(
    function: Callable[[int], _Result], count: int, check: Callable[[], None] = lambda: None
) -> list[_Result]:
    """Return [function(0), ..., function(count - 1)], computed in parallel by forks of this process.

    Args:
        function: Any callable; it need not be importable or picklable, because a fork has a copy of all memory.
        count: Number of processes.
        check: Called several times per second; may raise to stop, which kills the processes.

    Raises:
        RLTransformerError: A process died.
        Exception: The exception that the function raised in a process, with its traceback as a note.
    """
    # "spawn" would import everything again and serialize the policy for every process, which takes longer than most
    # evaluations. The price of "fork" is that it must not be used once CUDA is initialized; callers check that.
    context = fork_context()
    pipes = []
    processes = []
    for which in range(count):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(function, which, sender), daemon=False)
        process.start()
        # The worker must hold the only sending end: a pipe reports the end of a killed worker once no sender is open.
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    results: dict[int, _Result] = {}
    try:
        while len(results) < count:
            check()
            for pipe in wait([p for i, p in enumerate(pipes) if i not in results], _POLL_SECONDS):
                assert isinstance(pipe, Connection)
                results[pipes.index(pipe)] = _receive(pipe)
    finally:
        # On success the workers have sent everything; on an error or signal their work is no longer needed.
        for process in processes:
            process.kill()
            process.join()
    return [results[which] for which in range(count)]


def _receive(pipe: Connection) -> Any:
    """Return a worker's result, or raise its exception."""
    try:
        result, error, notes = pipe.recv()
    except EOFError:
        raise RLTransformerError(
            "a process that ran episodes has died, which no code of this library causes",
            where="worker process",
            fix="look for a crash of the environment above, or a lack of memory (dmesg); --max-live 1 needs the least memory",
        ) from None
    if error is not None:
        error.add_note(notes)
        raise error
    return result


def _serve(function: Callable[[int], object], which: int, pipe: Connection) -> None:
    """Run ``function(which)`` in a worker, and send its result or exception to the parent."""
    # A terminal sends Ctrl-C to all processes of a group. Only the parent reacts to it: it saves, and kills the
    # workers. SIGTERM gets its default back, because the fork inherits the parent's handler, which only sets a flag.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    # Each worker with all threads would oversubscribe the CPU; the parallelism is in the number of processes.
    torch.set_num_threads(1)
    try:
        pipe.send((function(which), None, ""))
    except (Exception, SystemExit) as error:
        notes = traceback.format_exc()
        try:
            pipe.send((None, error, notes))
        except Exception:  # the exception cannot be pickled, so only its text is sent
            pipe.send((None, RuntimeError(str(error)), notes))
