"""Write answers: JSON that no cache keeps and no browser takes for a page."""

from __future__ import annotations

import json

from starlette.responses import Response

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.answers import NO_TOKEN, TIMEOUT, TOO_LARGE, RequestError, error_body, status_of

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def reply_json(content: JsonObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer as JSON."""
    text = json.dumps(content, allow_nan=False)
    return Response(text, status, {**_HEADERS, **(headers or {})}, "application/json")


def reply_error(error: RLTransformerError) -> Response:
    """Return the answer to a request that is refused."""
    status = status_of(error)
    headers = {}
    if isinstance(error, RequestError) and error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if status == NO_TOKEN:
        headers["www-authenticate"] = "Bearer"
    if status in (TIMEOUT, TOO_LARGE):
        headers["connection"] = "close"  # the rest of its body is not read
    return reply_json(error_body(error), status, headers)
