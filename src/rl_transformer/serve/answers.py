"""Errors as clients see them: a status and {"error": {"where", "problem", "fix"}}."""

from __future__ import annotations

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.limits import ServeLimits, flag

MALFORMED = 400
NO_TOKEN = 401
FORBIDDEN = 403
NOT_FOUND = 404
TIMEOUT = 408
CONFLICT = 409
TOO_LARGE = 413
WRONG_TYPE = 415
WRONG_VALUE = 422
TOO_MANY = 429
BUG = 500
UNAVAILABLE = 503


class RequestError(RLTransformerError):
    """A request that is refused, with the status of its answer; nothing has changed."""

    def __init__(self, status: int, problem: str, *, where: str, fix: str, retry_after: int | None = None) -> None:
        super().__init__(problem, where=where, fix=fix)
        self.status = status
        self.retry_after = retry_after


def beyond(
    limits: ServeLimits, name: str, problem: str, *, where: str, status: int = TOO_LARGE, retry_after: int | None = None
) -> RequestError:
    """Return the error of a request beyond a limit; its fix names the flag."""
    fix = f"stay within {getattr(limits, name):,}, or start the server with a larger {flag(name)}"
    return RequestError(status, problem, where=where, fix=fix, retry_after=retry_after)


def out_of_order(problem: str, *, where: str, fix: str) -> RequestError:
    """Return the error of a request that does not follow from the one before; the session is unchanged."""
    return RequestError(CONFLICT, problem, where=where, fix=fix)


def error_body(error: RLTransformerError) -> JsonObject:
    """Return the body of an answer for an error."""
    return {"error": {"where": error.where, "problem": error.problem, "fix": error.fix}}


def status_of(error: RLTransformerError) -> int:
    """Return the status of an error; what a policy refuses is a wrong value."""
    return error.status if isinstance(error, RequestError) else WRONG_VALUE


def internal_error() -> RequestError:
    """Return the error for a fault of ours; its cause is in the server's log only."""
    return RequestError(BUG, "the server has a fault", where="server", fix="report it with the server's log")
