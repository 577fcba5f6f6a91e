"""Assemble a server's application: routes, WebSocket, guard, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.serve.answers import RequestError
from rl_transformer.serve.dispatcher import Dispatcher
from rl_transformer.serve.guard import Guard
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.metrics import ServerMetrics
from rl_transformer.serve.replies import reply_error
from rl_transformer.serve.routes import Routes
from rl_transformer.serve.service import Service
from rl_transformer.serve.websocket import RobotSocket

_LOG = logging.getLogger("rl_transformer.serve")
_SWEEP_SECONDS = 5.0


class ServerApp:
    """The application of one server."""

    def __init__(
        self,
        service: Service,
        limits: ServeLimits,
        *,
        token: str | None = None,
        names: Collection[str] = (),
        newer: Callable[[], Policy | None] | None = None,
    ) -> None:
        self.service = service
        self.metrics = ServerMetrics(service.sessions)
        self.dispatcher = Dispatcher(service, self.metrics)
        self.routes = Routes(service, self.dispatcher, limits, self.metrics)
        self._limits = limits
        self._newer = newer
        application = Starlette(
            routes=self.routes.table(),
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _no_route},
        )
        # Outside of the routes, so that no handler, not even the one for unknown routes, sees a request it refuses.
        self.guard = Guard(application, limits=limits, token=token, names=names)
        # The socket needs the guard's rates, and the guard wraps the application: hence a route added late.
        socket = RobotSocket(service, self.dispatcher, limits, self.guard.rates)
        application.router.routes.append(WebSocketRoute("/", socket.serve))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Run the queue while the server runs, and finish what it holds at the end."""
        # One task owns the sessions: a batch belongs to one thread at a time.
        queue = asyncio.create_task(self.dispatcher.run())
        beside = [asyncio.create_task(self._sweep())]
        if self._newer is not None:
            beside.append(asyncio.create_task(self._reload(self._newer)))
        try:
            yield
        finally:
            # These tasks call the dispatcher, so they end first; then the requests that it holds are answered.
            for task in beside:
                task.cancel()
            self.dispatcher.stop()
            await queue

    async def _sweep(self) -> None:
        """End idle sessions from time to time."""
        while True:
            # With a short limit more often, so that no idle session outlives it by more than half of it.
            await asyncio.sleep(min(_SWEEP_SECONDS, self._limits.idle_seconds / 2))
            # On the dispatcher's thread, since no other may change sessions while some of them act.
            await self.dispatcher.call(self.service.end_idle)

    async def _reload(self, newer: Callable[[], Policy | None]) -> None:
        """Let new sessions begin with a newer policy when the run folder has one."""
        while True:
            await asyncio.sleep(self._limits.reload_seconds)
            try:
                # Loading reads and verifies whole files; on the event loop every client would wait for it.
                policy = await asyncio.to_thread(newer)
                if policy is None:
                    continue
                if await self.dispatcher.call(partial(self.service.sessions.use, policy)):
                    self.metrics.reloads.labels("loaded").inc()
                    _LOG.warning("new sessions begin with the policy %s", policy.content_hash[:16])
            except RLTransformerError as error:
                # The loop goes on: sessions keep the present policy, and the next one in the folder may be sound.
                self.metrics.reloads.labels("refused").inc()
                _LOG.error("the newer policy is not used: %s: %s", error.where, error.problem)


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer a request for a route or method that does not exist."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    problem = f"there is no {request.method[:20]} {request.url.path[:100]}"
    return reply_error(RequestError(status, problem, where="route", fix="docs/serve.md lists the routes"))
