"""The routes of a server over HTTP. None takes a path, an address or a model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.answers import (
    MALFORMED,
    TIMEOUT,
    UNAVAILABLE,
    WRONG_TYPE,
    WRONG_VALUE,
    RequestError,
    beyond,
    error_body,
    internal_error,
)
from rl_transformer.serve.dispatcher import Dispatcher
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.messages import parse_body, read_act, read_outcome, read_session, read_start, take
from rl_transformer.serve.metrics import ServerMetrics
from rl_transformer.serve.replies import reply_error, reply_json
from rl_transformer.serve.service import Service

_LOG = logging.getLogger("rl_transformer.serve")
Handler = Callable[[Request], Awaitable[JsonObject | Response]]


class Routes:
    """Handlers of one server."""

    def __init__(self, service: Service, dispatcher: Dispatcher, limits: ServeLimits, metrics: ServerMetrics) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._limits = limits
        self._metrics = metrics
        self.is_stopping = False

    def table(self) -> list[Route]:
        """Return all routes."""
        session = "/v1/sessions/{session}"
        handlers: list[tuple[str, str, Handler]] = [
            ("GET", "/healthz", self.healthz),
            ("GET", "/readyz", self.readyz),
            ("GET", "/metrics", self.metrics),
            ("POST", "/v1/sessions", self.open),
            ("POST", "/v1/act", self.act_many),
            ("POST", f"{session}/act", self.act),
            ("POST", f"{session}/observe", self.observe),
            ("GET", f"{session}/state", self.state),
            ("PUT", f"{session}/state", self.put_state),
            ("DELETE", session, self.close),
        ]
        return [
            Route(path, partial(self._answer, f"{method} {path}", handler), methods=[method])
            for method, path, handler in handlers
        ]

    async def _answer(self, route: str, handler: Handler, request: Request) -> Response:
        """Return a handler's answer, or that of its error, and count it."""
        begin = time.perf_counter()
        try:
            content = await handler(request)
            response = reply_json(content) if isinstance(content, dict) else content
        except RLTransformerError as error:
            response = reply_error(error)
        except ClientDisconnect:
            response = reply_error(RequestError(MALFORMED, "the client is gone", where="body", fix="send it again"))
        except Exception:
            # The traceback is for the operator; a client learns only that there is a fault.
            _LOG.exception("a fault in %s", route)
            response = reply_error(internal_error())
        # By the pattern of the route, not by its path, which holds ids of sessions.
        self._metrics.requests.labels(route, response.status_code).inc()
        self._metrics.request_seconds.labels(route).observe(time.perf_counter() - begin)
        return response

    async def healthz(self, request: Request) -> JsonObject:
        """Answer as long as the process can."""
        return {"status": "ok"}

    async def readyz(self, request: Request) -> JsonObject:
        """Answer as long as sessions can act."""
        # A balancer shall send sessions elsewhere; /healthz stays good, so that nothing kills the server meanwhile.
        if self.is_stopping or self._dispatcher.is_hung:
            problem = "the server stops" if self.is_stopping else "an action takes very long"
            raise RequestError(UNAVAILABLE, problem, where="server", fix="ask another server", retry_after=1)
        return {"status": "ready", "policy": self._service.sessions.current.hash}

    async def metrics(self, request: Request) -> Response:
        """Return the metrics."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def open(self, request: Request) -> JsonObject:
        """Start a session."""
        if self.is_stopping:
            raise RequestError(UNAVAILABLE, "the server stops", where="server", fix="ask another server", retry_after=1)
        start = read_start(await self._body(request))
        return await self._dispatcher.call(partial(self._service.open, start))

    async def act(self, request: Request) -> JsonObject:
        """Let a session act."""
        return await self._dispatcher.act(read_act(request.path_params["session"], await self._body(request)))

    async def act_many(self, request: Request) -> JsonObject:
        """Let many sessions act; each has an answer or an error of its own."""
        items = take(await self._body(request), ("requests",), where="act", needed=["requests"])["requests"]
        if not isinstance(items, list):
            fix = 'send a list of {"session", "observation", ...}'
            raise RequestError(WRONG_VALUE, "is not a list", where="act: requests", fix=fix)
        if len(items) > self._limits.sessions_per_call:
            problem = f"holds {len(items):,} sessions"
            raise beyond(self._limits, "sessions_per_call", problem, where="act: requests")
        # A session acts once per call: two actions of one session have no order.
        sessions = [item.get("session") if isinstance(item, dict) else None for item in items]
        # A second action of a session needs the outcome of the first, which cannot be known within one call.
        if len({session for session in sessions if isinstance(session, str)}) < len(items):
            fix = "send objects with a session each, and each session once"
            raise RequestError(WRONG_VALUE, "does not name distinct sessions", where="act: requests", fix=fix)
        # Each has an answer of its own, so that one wrong session does not cost the others their actions.
        answers = [self._act_one(item, f"act: requests[{place}]") for place, item in enumerate(items)]
        return {"results": await asyncio.gather(*answers)}

    async def _act_one(self, item: JsonObject, where: str) -> JsonObject:
        """Return the answer to one of many sessions."""
        try:
            fields = {name: value for name, value in item.items() if name != "session"}
            return await self._dispatcher.act(read_act(read_session(item["session"], where), fields, where=where))
        except RLTransformerError as error:
            return error_body(error)

    async def observe(self, request: Request) -> JsonObject:
        """Report the outcome of a session's last action."""
        session = request.path_params["session"]
        outcome = read_outcome(await self._body(request))
        return await self._dispatcher.call(partial(self._service.observe, session, outcome), session)

    async def state(self, request: Request) -> JsonObject:
        """Return a session's state."""
        session = request.path_params["session"]
        return await self._dispatcher.call(partial(self._service.state, session), session)

    async def put_state(self, request: Request) -> JsonObject:
        """Let a session continue from a state."""
        session = request.path_params["session"]
        state = await self._body(request)
        return await self._dispatcher.call(partial(self._service.put_state, session, state), session)

    async def close(self, request: Request) -> JsonObject:
        """End a session."""
        session = request.path_params["session"]
        return await self._dispatcher.call(partial(self._service.close, session), session)

    async def _body(self, request: Request) -> JsonObject:
        """Return the JSON object of a request's body, read within the limits.

        Raises:
            RequestError: It has another type, is too large or too slow, or is no JSON object.
        """
        # A form of another website can send other types without a question of the browser (CSRF).
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            fix = "send the header Content-Type: application/json"
            raise RequestError(WRONG_TYPE, "the body is not declared as JSON", where="Content-Type", fix=fix)
        content = bytearray()
        try:
            # A client that sends a byte now and then would otherwise hold its connection without end.
            async with asyncio.timeout(self._limits.read_seconds):
                async for part in request.stream():
                    content += part
                    # Counted as it arrives: a declared length may be missing or wrong.
                    if len(content) > self._limits.body_bytes:
                        problem = f"holds more than {self._limits.body_bytes:,} bytes"
                        raise beyond(self._limits, "body_bytes", problem, where="body")
        except TimeoutError:
            problem = f"did not arrive within {self._limits.read_seconds:g} seconds"
            raise beyond(self._limits, "read_seconds", problem, where="body", status=TIMEOUT) from None
        return parse_body(bytes(content), self._limits)
