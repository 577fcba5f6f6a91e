"""Serve the page to a browser on this machine, and step the environment when it asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rl_transformer.errors import RLTransformerError
from rl_transformer.play.game import Game
from rl_transformer.play.page_files import PAGE, page_file
from rl_transformer.runtime.signals import StopSignals
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.connections import HttpServer
from rl_transformer.serve.guard import Guard
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.replies import reply_error, reply_json
from rl_transformer.serve.server import Address, bind

_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_BODY_BYTES = 1000


@dataclass
class Stopping:
    """Whether the server is about to stop."""

    is_stopping: bool = False


class PlayApp:
    """The application: the page's files, and two calls that begin an episode and step it."""

    def __init__(self, make: Callable[[], Game], limits: ServeLimits) -> None:
        self.routes = Stopping()
        # Simulators draw with contexts that belong to the thread that made them, so one thread does everything.
        self._thread = ThreadPoolExecutor(1)
        self._game = self._thread.submit(make).result()
        routes = [Route(f"/{name}", self._file) for name in [*PAGE, ""]]
        routes += [Route("/api/describe", self._describe, methods=["POST"])]
        routes += [Route("/api/begin", self._begin, methods=["POST"]), Route("/api/step", self._step, methods=["POST"])]
        self.guard = Guard(Starlette(routes=routes), limits=limits, token=None, names=[])

    def close(self) -> None:
        """Close the environment, in its thread."""
        self._thread.submit(self._game.close).result()
        self._thread.shutdown()

    async def _file(self, request: Request) -> Response:
        name = request.url.path.lstrip("/") or "index.html"
        return Response(page_file(name), headers=_HEADERS, media_type=PAGE[name])

    async def _describe(self, request: Request) -> Response:
        return await self._answer(request, lambda _: self._game.describe())

    async def _begin(self, request: Request) -> Response:
        return await self._answer(request, lambda sent: self._game.begin(*_start(sent)))

    async def _step(self, request: Request) -> Response:
        return await self._answer(request, lambda _: self._game.step())

    async def _answer(self, request: Request, call: Callable[[JsonObject], JsonObject]) -> Response:
        try:
            sent = await _body(request)
            loop = asyncio.get_running_loop()
            return reply_json(await loop.run_in_executor(self._thread, call, sent))
        except RLTransformerError as error:
            return reply_error(error)


async def _body(request: Request) -> JsonObject:
    """Return the JSON object in a request.

    Raises:
        RLTransformerError: It is too long, or something else.
    """
    # A page of another website cannot send this type without asking first, and nobody answers that it may.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RLTransformerError("is not application/json", where="content-type", fix="send JSON")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _BODY_BYTES:
            raise RLTransformerError(
                f"is longer than {_BODY_BYTES} bytes", where="body", fix="send what the page sends"
            )
    try:
        values = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RLTransformerError("is not a JSON object", where="body", fix="send what the page sends")
    return values


def _start(sent: JsonObject) -> tuple[float | None, int]:
    """Return the target and the seed of an episode.

    Raises:
        RLTransformerError: One of them is no number.
    """
    target = sent.get("target_return")
    seed = sent.get("seed", 0)
    # True is a number in Python, and in a request it is a mistake.
    is_number = isinstance(target, int | float) and not isinstance(target, bool)
    if not (target is None or is_number) or type(seed) is not int or not 0 <= seed < 2**31:
        raise RLTransformerError(
            "a target and a seed are numbers", where="begin", fix="give a number, and a seed from 0"
        )
    return None if target is None else float(target), seed


def play(make: Callable[[], Game], port: int, started: Callable[[str], None]) -> int | None:
    """Serve the page until a signal arrives, and return its number.

    Args:
        make: Makes the game; called in the thread that steps it.
        port: Port on this machine; 0: any free one.
        started: Called with the address of the page.
    """
    limits = ServeLimits()
    with StopSignals() as signals, bind(Address(port=port)) as listening:
        # The port is bound first, so that a taken one is reported before a simulator is started.
        app = PlayApp(make, limits)
        host, number = listening.getsockname()[:2]
        started(f"http://{host}:{number}/")
        HttpServer(app, limits, lambda: signals.received is not None).run_on(listening)
        app.close()
    return signals.received
