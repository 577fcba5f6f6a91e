"""Refuse requests before anything reads them: too many, of another website, to another name, or without the token."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from rl_transformer.serve.answers import FORBIDDEN, NO_TOKEN, TOO_MANY, RequestError, beyond
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.replies import reply_error

# Their answers hold nothing, and a supervisor has no token.
OPEN_ROUTES = ("/healthz", "/readyz")
_MAX_ADDRESSES = 10_000


class Guard:
    """ASGI middleware that lets only requests through which may be answered."""

    def __init__(self, app: ASGIApp, *, limits: ServeLimits, token: str | None, names: Collection[str]) -> None:
        self._app = app
        self._limits = limits
        self._token = token
        self._names = {"localhost", *(name.lower() for name in names)}
        self.rates = Rates(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope)
            except RequestError as error:
                reply = reply_error(error)
                if scope["type"] == "http":
                    await reply(scope, receive, send)
                else:
                    await WebSocket(scope, receive, send).send_denial_response(reply)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise an error for a request that may not be answered."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.rates.count(client_of(scope))
        if scope["path"] in OPEN_ROUTES:
            return
        host = headers.get("host", "")
        # A page of another website can let its own name lead here (DNS rebinding); it then sends that name.
        if not self._is_known(host):
            raise RequestError(
                FORBIDDEN,
                f"the name {host!r:.100} is not a name of this server",
                where="Host",
                fix="use its address, or start it with --allowed-host NAME",
            )
        origin = headers.get("origin")
        if headers.get("sec-fetch-site") == "cross-site" or (origin is not None and urlsplit(origin).netloc != host):
            fix = "call it from a program, or from a page of the same address"
            raise RequestError(FORBIDDEN, "the request comes from another website", where="Origin", fix=fix)
        self._check_token(headers.get("authorization", ""))

    def _is_known(self, host: str) -> bool:
        """Return True for an address or a name that the operator has given."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True  # no name, so that nobody can have let it lead elsewhere

    def _check_token(self, authorization: str) -> None:
        """Raise an error unless the token was sent; openpi's client calls it an API key."""
        if self._token is None:
            return
        kind, _, sent = authorization.partition(" ")
        is_right = secrets.compare_digest(sent.strip().encode("utf-8", "surrogatepass"), self._token.encode())
        if kind.lower() not in ("bearer", "api-key") or not is_right:
            fix = "send the header Authorization: Bearer TOKEN, with the token of the server's --token-file"
            raise RequestError(NO_TOKEN, "the token is missing or wrong", where="Authorization", fix=fix)


class Rates:
    """Requests of each client address within the last second, about."""

    def __init__(self, limits: ServeLimits) -> None:
        self._limits = limits
        # What each address may still send, and when that was computed. The oldest is forgotten first, so that
        # strangers with many addresses fill no memory.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, address: str) -> None:
        """Count a request or message.

        Raises:
            RequestError: There were too many.
        """
        rate = self._limits.requests_per_second
        most = max(1.0, rate)
        now = time.monotonic()
        left, since = self._left.pop(address, (most, now))
        left = min(most, left + (now - since) * rate)
        self._left[address] = (max(0.0, left - 1), now)
        if len(self._left) > _MAX_ADDRESSES:
            self._left.popitem(last=False)
        if left < 1:
            problem = f"more than {rate:g} requests per second come from one address"
            raise beyond(self._limits, "requests_per_second", problem, where="client", status=TOO_MANY, retry_after=1)


def client_of(scope: Scope) -> str:
    """Return the address of the client."""
    return scope["client"][0] if scope.get("client") else ""
