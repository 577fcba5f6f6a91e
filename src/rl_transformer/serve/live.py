"""What a server remembers of a session, and how it is written for a restart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.runtime.reading import check_format
from rl_transformer.runtime.types import JsonObject

RECORD_FORMAT = 1
_FIELDS = {"format_version", "used", "state", "acted", "observed"}


class Engine:
    """A policy and all live sessions that began with it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.hash = policy.content_hash
        self.batch = policy.sessions([], [])


@dataclass(frozen=True)
class Remembered:
    """The last answer to a kind of request, so that a client which did not receive it can ask again."""

    step: int
    digest: str
    """Of the request; empty if it had no step, and so cannot be repeated."""
    answer: JsonObject

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"step": self.step, "digest": self.digest, "answer": self.answer}


@dataclass
class LiveSession:
    """One session; its history is a row of the engine's batch."""

    engine: Engine
    row: int
    used: float
    """When it was last used, in seconds since 1970."""
    key: str
    """The hash of its id."""
    acted: Remembered | None = None
    observed: Remembered | None = None

    @property
    def step(self) -> int:
        """Return the number of the action that comes next, or that awaits its outcome."""
        return int(self.engine.batch.step[self.row])

    @property
    def awaits_outcome(self) -> bool:
        """Return True between an action and its outcome."""
        return self.engine.batch.awaits_outcome(self.row)

    def state(self) -> JsonObject:
        """Return the session's state; see `PolicySession.state`."""
        return self.engine.batch.state([self.row])

    def to_record(self) -> JsonObject:
        """Return everything that a restarted server needs, as values for JSON."""
        return {
            "format_version": RECORD_FORMAT,
            "used": self.used,
            "state": self.state(),
            "acted": None if self.acted is None else self.acted.to_dict(),
            "observed": None if self.observed is None else self.observed.to_dict(),
        }


def read_record(record: JsonObject, *, where: str) -> tuple[float, JsonObject, Remembered | None, Remembered | None]:
    """Return (used, state, acted, observed) of a record; the policy checks the state.

    Raises:
        RLTransformerError: It is damaged.
    """
    check_format(record, RECORD_FORMAT, where=where)
    try:
        # `type` instead of `isinstance`, for which True is a number, too.
        if set(record) != _FIELDS or type(record["used"]) not in (int, float) or not isinstance(record["state"], dict):
            raise ValueError(f"its fields are not {', '.join(sorted(_FIELDS))}")
        return record["used"], record["state"], _remembered(record["acted"]), _remembered(record["observed"])
    except (ValueError, KeyError, TypeError) as error:
        raise RLTransformerError(f"is damaged: {error}", where=where, fix="remove it; the session is lost") from None


def _remembered(values: JsonObject | None) -> Remembered | None:
    """Return an answer that was written."""
    if values is None:
        return None
    step = values["step"]
    digest = values["digest"]
    # `type` instead of `isinstance`, for which True is an int.
    if type(step) is not int or not isinstance(digest, str) or not isinstance(values["answer"], dict):
        raise ValueError("a remembered answer is malformed")
    return Remembered(step, digest, values["answer"])


def key_of(session: str) -> str:
    """Return the name under which a session is kept: a hash, so that neither memory nor files show its id."""
    # JSON can hold lone surrogates; such an id shall belong to no session, and not break the encoding.
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
