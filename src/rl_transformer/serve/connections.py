"""Run an application on a port, within limits: how many connections are open, and how long a request's head may take."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rl_transformer.serve.answers import MALFORMED, RequestError, error_body
from rl_transformer.serve.limits import ServeLimits


class Stoppable(Protocol):
    """Describes what answers requests until the server stops."""

    is_stopping: bool


class Application(Protocol):
    """Describes what the server runs."""

    @property
    def guard(self) -> ASGIApp:
        """Return the application behind its guard."""
        ...

    @property
    def routes(self) -> Stoppable:
        """Return what is told that the server stops."""
        ...


class HttpServer(uvicorn.Server):
    """uvicorn with the limits of this package, stopped by a function instead of its own handling of signals."""

    def __init__(self, app: Application, limits: ServeLimits, is_asked_to_stop: Callable[[], bool]) -> None:
        # Its log would show ids of sessions (in paths), and a line for every malformed request.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        logging.getLogger("websockets").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app.guard,
            http=protocol_with(limits),
            ws="websockets-sansio",
            ws_max_size=limits.body_bytes,
            ws_per_message_deflate=False,  # a small message could hold a large one
            log_config=None,
            access_log=False,
            proxy_headers=False,  # a client could write any address there
            server_header=False,
            timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
        )
        super().__init__(config)
        self._app = app
        self._is_asked_to_stop = is_asked_to_stop

    def run_on(self, listening: socket.socket) -> None:
        """Serve until asked to stop, then finish what was accepted."""
        asyncio.run(self.serve(sockets=[listening]))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the caller."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether to stop."""
        if self._is_asked_to_stop():
            self._app.routes.is_stopping = True
            self.should_exit = True
        return await super().on_tick(counter)


def protocol_with(limits: ServeLimits) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits that it does not have itself."""

    class LimitedProtocol(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                transport.abort()
                return
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_head()

        def _wait_for_head(self) -> None:
            """Start or stop the clock, by whether the head of a request is still incomplete."""
            # A client that sends a byte now and then would otherwise hold its connection for ever.
            is_waiting = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
            if is_waiting and self._timer is None:
                self._timer = self.loop.call_later(limits.read_seconds, self.transport.abort)
            elif not is_waiting:
                self._stop_clock()

        def _stop_clock(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._stop_clock()
            super().handle_websocket_upgrade(event)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP in the form of all other errors."""
            error = RequestError(MALFORMED, "is not HTTP", where="request", fix="send HTTP/1.1 (RFC 9112)")
            body = json.dumps(error_body(error)).encode()
            size = str(len(body)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", size), (b"connection", b"close")]
            for part in (h11.Response(status_code=MALFORMED, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(cast(bytes, self.conn.send(part)))
            self.transport.close()

    return LimitedProtocol
