"""Measuring cells: here or in worker processes, each in a file of its own as soon as it is done."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from rl_transformer.errors import RLTransformerError
from rl_transformer.reproductions.code_hash import code_hash
from rl_transformer.reproductions.experiment import Cell, Experiment, Measured, Setup
from rl_transformer.reproductions.provenance import describe_policies, used_policies
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import git_commit, versions
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.signals import Interrupted, StopSignals
from rl_transformer.runtime.system import end_with_parent

_LOOK_EVERY_SECONDS = 0.5


def cell_file(setup: Setup, cell: Cell) -> Path:
    """Return the file of a cell's measures."""
    return setup.output / "cells" / f"{cell_name(cell)}.json"


def cell_name(cell: Cell) -> str:
    """Return a cell's name, for example "bc-seed-0"."""
    return "-".join(str(value) if name == "arm" else f"{name}-{value}" for name, value in cell.items())


def read_cells(setup: Setup, cells: list[Cell]) -> Measured:
    """Read measured cells."""
    return [read_json(cell_file(setup, cell), fix="delete this file and repeat") for cell in cells]


def measure_cells(experiment: Experiment, setup: Setup, cells: list[Cell], jobs: int) -> Iterator[Cell]:
    """Measure cells, ``jobs`` at the same time, and yield each one when its file is written.

    Raises:
        Interrupted: SIGTERM or SIGINT; the cells in training have saved a checkpoint.
        RLTransformerError: What an experiment refuses, or a worker process that died.
    """
    if jobs == 1 or len(cells) < 2:
        for cell in cells:
            _measure(experiment, cell, setup)
            yield cell
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads while they run
    with StopSignals() as signals, ProcessPoolExecutor(jobs, mp_context=context, initializer=_ignore_repeats) as pool:
        waiting = {pool.submit(_measure_in_worker, experiment, cell, setup): cell for cell in cells}
        try:
            yield from _finished(waiting, signals)
        except BaseException as error:
            _stop_workers(pool)
            signals.check()  # Ctrl-C reaches the workers too, and may be noticed there first
            if isinstance(error, BrokenProcessPool):
                raise RLTransformerError(
                    "a process that measured a cell was killed from outside (out of memory?); finished cells are kept",
                    where=experiment.name,
                    fix="repeat the command, with a smaller --jobs if memory is short",
                ) from None
            raise


def _finished(waiting: dict[Future[None], Cell], signals: StopSignals) -> Iterator[Cell]:
    while waiting:
        done, _ = wait(waiting, timeout=_LOOK_EVERY_SECONDS, return_when=FIRST_COMPLETED)
        signals.check()
        for future in done:
            cell = waiting.pop(future)
            future.result()
            yield cell


def _stop_workers(pool: ProcessPoolExecutor) -> None:
    """Ask the workers to stop: a run in training saves a checkpoint, and continues the next time."""
    for process in list((pool._processes or {}).values()):
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


def _ignore_repeats() -> None:
    """Let a worker finish its checkpoint, however often it receives a signal to stop, and end with its parent."""
    StopSignals.patient = True
    end_with_parent()


def _measure_in_worker(experiment: Experiment, cell: Cell, setup: Setup) -> None:
    try:
        _measure(experiment, cell, setup)
    except Interrupted as error:
        os._exit(error.exit_code)  # back in the pool it would take the next cell


def _measure(experiment: Experiment, cell: Cell, setup: Setup) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    # Many trainings would print their progress at once.
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        used_policies() as runs,
    ):
        measures = experiment.measure(cell, setup)
    row = {
        **cell,
        **measures,
        "seconds": round(time.monotonic() - began, 1),
        "git_commit": git_commit(),
        "code": code_hash(experiment),
        "versions": versions(),
        "policies": describe_policies(runs),
        **({} if setup.device == "cpu" else {"device": torch.cuda.get_device_name(setup.device)}),
    }
    write_text(cell_file(setup, cell), to_json(row))
