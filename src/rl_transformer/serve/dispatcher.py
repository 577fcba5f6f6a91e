"""Collect what clients ask for and run it on one thread: sessions that act at about the same time act together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.acting import Result
from rl_transformer.serve.answers import UNAVAILABLE, RequestError
from rl_transformer.serve.messages import ActRequest
from rl_transformer.serve.metrics import ServerMetrics
from rl_transformer.serve.service import Service

T = TypeVar("T")

# Larger batches save little time per action, and everybody else waits for them.
_MAX_TOGETHER = 64
_HUNG_SECONDS = 2.0


@dataclass(frozen=True)
class _Job:
    """Something to do, of one session or (None) of none in particular."""

    session: str | None
    work: ActRequest | Callable[[], object]
    future: asyncio.Future


class Dispatcher:
    """A queue in front of a service, and the thread that empties it."""

    def __init__(self, service: Service, metrics: ServerMetrics) -> None:
        self._service = service
        self._metrics = metrics
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        # One thread only: the batch of sessions has no locks.
        self._thread = ThreadPoolExecutor(1, "rlt-serve")
        self._busy_since: float | None = None
        self._stopped = False

    @property
    def is_hung(self) -> bool:
        """Return True if the thread has worked on one batch for longer than any batch takes."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > _HUNG_SECONDS

    async def act(self, request: ActRequest) -> JsonObject:
        """Let a session act, together with those that arrive within the limit ``batch_milliseconds``.

        Raises:
            RLTransformerError: The request is refused.
        """
        return await self._enqueue(request.session, request)

    async def call(self, function: Callable[[], T], session: str | None = None) -> T:
        """Return the result of a function on the service's thread; ``session`` is the one that it concerns."""
        return await self._enqueue(session, function)

    def _enqueue(self, session: str | None, work: ActRequest | Callable[[], object]) -> asyncio.Future:
        if self._stopped:
            raise RequestError(UNAVAILABLE, "the server stops", where="server", fix="ask another server")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(session, work, future))
        self._arrived.set()
        return future

    async def run(self) -> None:
        """Work until `stop` was called and nothing waits."""
        loop = asyncio.get_running_loop()
        while not (self._stopped and not self._waiting):
            await self._arrived.wait()
            self._arrived.clear()
            if any(isinstance(job.work, ActRequest) for job in self._waiting):
                await asyncio.sleep(self._service.limits.batch_milliseconds / 1000)
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_TOGETHER))]
                self._busy_since = time.monotonic()
                results = await loop.run_in_executor(self._thread, self._run_all, taken)
                self._busy_since = None
                for job, result in zip(taken, results, strict=True):
                    if job.future.done():  # the client is gone
                        continue
                    if isinstance(result, Exception):
                        job.future.set_exception(result)
                    else:
                        job.future.set_result(result)
        self._thread.shutdown()

    def stop(self) -> None:
        """Let `run` end when everything that waits is done."""
        self._stopped = True
        self._arrived.set()

    def _run_all(self, jobs: list[_Job]) -> list[object]:
        """Return the results, or the exceptions, of some jobs; jobs of one session are done in their order."""
        results: dict[int, object] = {}
        acts: dict[int, ActRequest] = {}
        acting: set[str | None] = set()
        for place, job in enumerate(jobs):
            # Its action must be computed before what the same client sent after it.
            if job.session in acting:
                results |= self._run_acts(acts)
                acts.clear()
                acting.clear()
            if isinstance(job.work, ActRequest):
                acts[place] = job.work
                acting.add(job.session)
                continue
            try:
                results[place] = job.work()
            except Exception as error:
                results[place] = error
        results |= self._run_acts(acts)
        return [results[place] for place in range(len(jobs))]

    def _run_acts(self, acts: dict[int, ActRequest]) -> dict[int, Result]:
        """Return results by place of sessions that act together."""
        if not acts:
            return {}
        begin = time.perf_counter()
        try:
            results = self._service.act(list(acts.values()))
        except Exception as error:
            # Every client must hear of the fault; a future without a result would leave it waiting.
            results = [error] * len(acts)
        self._metrics.batch_sessions.observe(len(acts))
        self._metrics.batch_seconds.observe(time.perf_counter() - begin)
        return dict(zip(acts, results, strict=True))
