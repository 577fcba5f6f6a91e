"""Time several callables in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from rl_transformer.runtime.machine import describe_hardware, versions


def interleaved(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, calls: int = 1, warmup: int = 2
) -> dict[str, dict[str, float]]:
    """Return median and minimum milliseconds of a call of each side.

    Args:
        sides: What to time, by name.
        repeats: Rounds; in each every side runs ``calls`` times.
        calls: Calls between two looks at the clock.
        warmup: Calls of each side before the first round.
    """
    for side in sides.values():
        for _ in range(warmup):
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for _ in range(repeats):
        for name, side in sides.items():
            began = time.perf_counter()
            for _ in range(calls):
                side()
            seconds[name].append((time.perf_counter() - began) / calls)
    return {name: of(values) for name, values in seconds.items()}


def in_turns(
    sides: Mapping[str, Callable[[], Callable[[], object]]], *, repeats: int, calls: int, warmup: int = 3
) -> dict[str, dict[str, float]]:
    """Return median and minimum milliseconds of a call, and the memory, of sides that live in processes of their own.

    They run in turn, ``calls`` calls each, as `interleaved`; but no side meets the other's heap.

    Args:
        sides: Functions that a process can be given by name (or partials of such), which return what to time.
        repeats: Rounds.
        calls: Calls between two looks at the clock.
        warmup: Calls of each side before the first round.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, side in sides.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(side, theirs, torch.get_num_threads()), daemon=True))
        processes[-1].start()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for pipe in pipes.values():
            pipe.send(warmup)
            pipe.recv()
        for _ in range(repeats):
            for name, pipe in pipes.items():
                pipe.send(calls)
                seconds[name].append(pipe.recv())
        memory = {}
        for name, pipe in pipes.items():
            pipe.send(0)
            memory[name] = pipe.recv()
    finally:
        for process in processes:
            process.terminate()
    return {name: {**of(values), "peak_memory_mib": memory[name]} for name, values in seconds.items()}


def _serve(make: Callable[[], Callable[[], object]], pipe: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    side = make()
    while calls := pipe.recv():
        began = time.perf_counter()
        for _ in range(calls):
            side()
        pipe.send((time.perf_counter() - began) / calls)
    pipe.send(peak_memory_mib())


def of(seconds: list[float]) -> dict[str, float]:
    """Return median and minimum in milliseconds."""
    return {
        "median_ms": round(1000 * statistics.median(seconds), 4),
        "min_ms": round(1000 * min(seconds), 4),
    }


def row(timed: Mapping[str, Mapping[str, float]], **settings: Any) -> dict[str, Any]:
    """Return a row of results: both sides, how many times faster ours is, and on what."""
    ours, baseline = timed["ours"], timed["baseline"]
    return {
        **settings,
        "ours": dict(ours),
        "baseline": dict(baseline),
        "ratio": round(baseline["median_ms"] / ours["median_ms"], 3),
        **where_measured(),
    }


def where_measured() -> dict[str, Any]:
    """Return what durations depend on."""
    return {"threads": torch.get_num_threads(), "versions": versions("transformers"), "hardware": describe_hardware()}


def peak_memory_mib() -> int:
    """Return the largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
