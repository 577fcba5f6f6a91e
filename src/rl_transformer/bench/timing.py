"""Time several callables in turn, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import torch

from rl_transformer.models.trunk.cpu_linear import float32_products
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.runtime.system import peak_memory_mib
from rl_transformer.runtime.types import JsonObject

Times = dict[str, float]
"""Milliseconds per call (median_ms, min_ms), and perhaps memory."""
Side = Callable[[], object]
"""What is timed."""


def time_in_turns(sides: Mapping[str, Side], *, repeats: int, calls: int = 1, warmup: int = 2) -> dict[str, Times]:
    """Return median and minimum milliseconds per call of each side.

    Args:
        sides: What to time, by name.
        repeats: Rounds; in each every side runs ``calls`` times.
        calls: Calls between two readings of the clock.
        warmup: Calls of each side before the first round.
    """
    for side in sides.values():
        for _ in range(warmup):
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    # What the warm-up left behind shall not be collected inside of a timed round.
    gc.collect()
    # Rounds outside and sides inside: a slow spell of the machine then falls on every side.
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(_seconds_per_call(side, calls))
    return {name: summarize(values) for name, values in seconds.items()}


def time_in_processes(
    sides: Mapping[str, Callable[[], Side]], *, repeats: int, calls: int, warmup: int = 3
) -> dict[str, Times]:
    """Return median and minimum milliseconds per call, and the memory, of sides in processes of their own.

    They run in turn, ``calls`` calls each, as in `time_in_turns`; but no side shares the other's heap.

    Args:
        sides: Importable functions, or partials of such, that return what to time.
        repeats: Rounds.
        calls: Calls between two readings of the clock.
        warmup: Calls of each side before the first round.
    """
    # A forked child would inherit this process's heap, which is what the sides shall not share.
    context = multiprocessing.get_context("spawn")
    pipes: JsonObject = {}
    processes = []
    for name, side in sides.items():
        pipes[name], far_end = context.Pipe()
        arguments = (side, far_end, torch.get_num_threads())
        processes.append(context.Process(target=_serve, args=arguments, daemon=True))
        processes[-1].start()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        # Each answer also says that its side is built and warm; no side is still being made while another is timed.
        for pipe in pipes.values():
            pipe.send(warmup)
            pipe.recv()
        # One side at a time. The other waits for its pipe and uses no core.
        for _ in range(repeats):
            for name, pipe in pipes.items():
                pipe.send(calls)
                seconds[name].append(pipe.recv())
        memory = {}
        for name, pipe in pipes.items():
            # Memory is read after the last round, so that the peak covers all of them.
            pipe.send(0)
            memory[name] = pipe.recv()
    finally:
        # Also after an error: a side that waits for its pipe would never end.
        for process in processes:
            process.terminate()
    return {name: {**summarize(values), "peak_memory_mib": memory[name]} for name, values in seconds.items()}


def _serve(make_side: Callable[[], Side], pipe: Connection, threads: int) -> None:
    """Answer each number of calls with the seconds per call, and 0 with the peak memory."""
    # A spawned process begins with the library's default, not with its parent's number.
    torch.set_num_threads(threads)
    side = make_side()
    while calls := pipe.recv():
        pipe.send(_seconds_per_call(side, calls))
    pipe.send(peak_memory_mib())


def _seconds_per_call(side: Side, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - began) / calls


def summarize(seconds: list[float]) -> Times:
    """Return median and minimum in milliseconds."""
    return {
        "median_ms": round(1000 * statistics.median(seconds), 4),
        "min_ms": round(1000 * min(seconds), 4),
    }


def make_row(times: Mapping[str, Mapping[str, float]], **settings: object) -> JsonObject:
    """Return a row of results: both sides, how many times faster ours is, and on what machine.

    Args:
        times: Of the sides "ours" and "baseline".
        settings: What was timed, for the record.
    """
    ours = times["ours"]
    baseline = times["baseline"]
    return {
        **settings,
        "ours": dict(ours),
        "baseline": dict(baseline),
        # Of medians: the minimum is one lucky call, and a mean follows every interruption.
        "ratio": round(baseline["median_ms"] / ours["median_ms"], 3),
        **describe_conditions(),
    }


def describe_conditions() -> JsonObject:
    """Return what durations depend on: threads, the library of our products, versions and hardware."""
    return {
        "threads": torch.get_num_threads(),
        "float32_products": float32_products(),
        "versions": versions("transformers"),
        "hardware": describe_hardware(),
    }
