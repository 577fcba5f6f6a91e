"""Run the steps of a conversion in this process, or on the machines of a Ray cluster.

Ray places the steps, waits for them, and repeats those whose process or machine dies. All machines see the folder of the
output on a shared disk, because that is where rows and shards lie; only short accounts pass between processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rl_transformer.errors import RLTransformerError, require

ENGINES = ("local", "ray")
_RETRIES = 3

Shared = TypeVar("Shared")
Result = TypeVar("Result")


class Engine(Protocol):
    """Calls a function for each of several numbers."""

    def __call__(
        self, function: Callable[[Shared, int], Result], shared: Shared, numbers: Sequence[int]
    ) -> Iterator[Result]:
        """Yield ``function(shared, number)`` for every number, in their order, wherever and whenever it is computed.

        A step may be repeated, so that it has to remove what an earlier try has left.
        """
        ...


def in_this_process(
    function: Callable[[Shared, int], Result], shared: Shared, numbers: Sequence[int]
) -> Iterator[Result]:
    """Compute one step after the other."""
    for number in numbers:
        yield function(shared, number)


def _on_ray(function: Callable[[Shared, int], Result], shared: Shared, numbers: Sequence[int]) -> Iterator[Result]:
    """Compute the steps as tasks of the Ray cluster that this process is connected to."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(max_retries=_RETRIES)(function)
    given = ray.put(shared)  # sent to every machine once, and not with every task
    waiting = [task.remote(given, number) for number in numbers]
    try:
        # In their order, although they end in any: what follows is the same wherever each was computed.
        while waiting:
            yield ray.get(waiting[0])
            waiting.pop(0)
    except RayTaskError as error:
        # Ray wraps the errors of tasks; ours are to look the same wherever they occurred.
        raise error.cause if isinstance(error.cause, RLTransformerError) else error from None
    except RayError as error:
        problem = f"a task failed {_RETRIES + 1} times: {' '.join(str(error).split())[:300]}"
        fix = "see whether the machines have enough memory (ray status); the same command then goes on"
        raise RLTransformerError(problem, where="--engine ray", fix=fix) from None
    finally:
        # After an error, nobody waits for the others; they would go on writing.
        for reference in waiting:
            ray.cancel(reference)


@contextmanager
def engine_named(name: str) -> Iterator[Engine]:
    """Provide an engine inside the block; for Ray, this process is connected to a cluster meanwhile.

    The cluster is the one of RAY_ADDRESS; without that, Ray uses one that runs on this machine, or starts one.

    Raises:
        RLTransformerError: There is no such engine, Ray is not installed, or the cluster cannot be reached.
    """
    if name not in ENGINES:
        fix = f"choose one of {', '.join(ENGINES)}"
        raise RLTransformerError(f"there is no engine {name!r}", where="--engine", fix=fix)
    if name == "local":
        yield in_this_process
        return
    require("ray", extra="ray", purpose="--engine ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports to its makers
    import ray

    # A program that uses Ray itself has its own connection, which stays open.
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            problem = f"the cluster cannot be reached: {' '.join(str(error).split())[:300]}"
            fix = "set RAY_ADDRESS to the address that ray start printed, or unset it to use this machine"
            raise RLTransformerError(problem, where="--engine ray", fix=fix) from None
    try:
        yield _on_ray
    finally:
        if is_ours:
            ray.shutdown()
