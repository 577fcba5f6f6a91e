"""Call a server from Python with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import time
from urllib.parse import urlsplit

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested

_SECONDS = 30
# The server ends a connection that is not used for some seconds.
_KEEP_SECONDS = 2


class ServerClient:
    """One connection to `rlt serve`.

    Args:
        url: As the server prints it, such as http://127.0.0.1:8000.
        token: The server's, if it has one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url
        parts = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds or not parts.hostname:
            raise RLTransformerError("is not the address of a server", where=url, fix="write it as http://HOST:PORT")
        self._connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_SECONDS)
        self._last = 0.0
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"

    def request(self, method: str, path: str, body: JsonMapping | None = None) -> tuple[int, JsonObject]:
        """Return the status and the content of an answer.

        Raises:
            RLTransformerError: Nothing answers there, or not in JSON.
        """
        if time.monotonic() - self._last > _KEEP_SECONDS:
            self._connection.close()  # the next request opens it again
        try:
            text = None if body is None else json.dumps(body)
            self._connection.request(method, path, text, self._headers)
            answer = self._connection.getresponse()
            content = json.loads(answer.read())
            self._last = time.monotonic()
            return answer.status, content
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            problem = f"does not answer as rlt serve does: {type(error).__name__}: {error}"
            raise RLTransformerError(problem, where=self._url, fix="start rlt serve there, or check the URL") from None

    def call(self, method: str, path: str, body: JsonMapping | None = None) -> JsonObject:
        """Return the content of an answer.

        Raises:
            RLTransformerError: The server refuses the request; where, problem and fix are the server's.
        """
        status, content = self.request(method, path, body)
        if status >= 400:
            found = content.get("error", {})
            raise RLTransformerError(
                str(found.get("problem", status)),
                where=f"{self._url}: {found.get('where', path)}",
                fix=str(found.get("fix", "see the server's log")),
            )
        return content

    def open(self, target_return: float | None = None, seed: int = 0, targets: JsonMapping | None = None) -> str:
        """Start a session and return its id."""
        start = {"target_return": target_return, "seed": seed, "targets": targets}
        return self.call("POST", "/v1/sessions", start)["session"]

    def act(self, session: str, observation: Nested, allowed: Nested = None) -> Nested:
        """Return the action of a session, as numbers and lists."""
        body = {"observation": observation} | ({} if allowed is None else {"allowed": allowed})
        return self.call("POST", f"/v1/sessions/{session}/act", body)["action"]

    def observe(self, session: str, reward: float | None, **fields: Nested) -> None:
        """Report the outcome of a session's last action."""
        self.call("POST", f"/v1/sessions/{session}/observe", {"reward": reward, **fields})

    def end(self, session: str) -> None:
        """End a session."""
        self.call("DELETE", f"/v1/sessions/{session}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
