"""Read the bodies of requests; a field that is missing, unknown or of another kind is an error that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.reading import parse_json
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested
from rl_transformer.serve.answers import MALFORMED, NOT_FOUND, WRONG_VALUE, RequestError, beyond
from rl_transformer.serve.limits import ServeLimits

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Outcome:
    """What followed from the last action of a session."""

    reward: float | None = None
    action: Nested = None
    """What was executed; None: what the session chose."""
    further: Mapping[str, float | None] | None = None
    """Outcomes other than the reward, by name, such as cost."""
    step: int | None = None
    digest: str = ""


@dataclass(frozen=True)
class ActRequest:
    """One session that is to act."""

    session: str
    observation: Nested = None
    allowed: Nested = None
    row: JsonMapping | None = None
    """Values by column in place of the observation, for a policy that learned from a table."""
    outcome: Outcome | None = None
    """The outcome of the session's last action, if it was not reported yet."""
    step: int | None = None
    return_info: bool = False
    digest: str = ""
    """Of the whole request, by which a repeated one is recognized."""


def parse_body(content: bytes, limits: ServeLimits) -> JsonObject:
    """Return the JSON object in a request's body.

    Raises:
        RequestError: It is no JSON object, repeats a key, holds NaN, or is nested too deeply.
    """
    try:
        body = parse_json(content, where="body", fix="send one JSON object (RFC 8259)")
    except RLTransformerError as error:
        # Shortened, because the problem may quote the message, which is the client's and of any length.
        raise RequestError(MALFORMED, error.problem[:300], where="body", fix=error.fix) from None
    _check_depth(body, limits)
    return body


def _check_depth(body: JsonObject, limits: ServeLimits) -> None:
    """Raise an error if lists and objects are inside each other more often than the limit allows."""
    # Level by level: recursion could overflow on the very body that is to be refused.
    level: list[object] = [body]
    for _ in range(limits.json_depth):
        level = [inner for value in level for inner in _children(value) if isinstance(inner, dict | list)]
        if not level:
            return
    raise beyond(limits, "json_depth", f"holds more than {limits.json_depth} levels", where="body")


def _children(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def take(body: object, known: Collection[str], *, where: str, needed: Collection[str] = ()) -> JsonObject:
    """Return the fields of a message after a check of their names.

    Raises:
        RequestError: A field is unknown, or a needed one is missing.
    """
    if not isinstance(body, dict):
        raise RequestError(WRONG_VALUE, "is not an object", where=where, fix=f"send {', '.join(known)} as an object")
    # An unknown field is an error: a misspelled "outcome" would silently leave a reward out.
    for name in body:
        if name not in known:
            # The name is the client's own text; it is cut so that it cannot fill answers and logs.
            fix = f"{did_you_mean(str(name), known)}known fields: {', '.join(known)}"
            raise RequestError(WRONG_VALUE, f"has no field {str(name)!r:.100}", where=where, fix=fix)
    for name in needed:
        if name not in body:
            raise RequestError(WRONG_VALUE, f"lacks the field {name}", where=where, fix=f"send {name}")
    return body


def read_act(session: str, body: object, *, where: str = "act") -> ActRequest:
    """Return the request of one session from ``{"observation", "allowed"}``; see docs/serve.md for further fields."""
    known = ("observation", "allowed", "row", "outcome", "step", "return_info")
    fields = take(body, known, where=where)
    row = fields.get("row")
    # Exactly one of them; with both it would be open which one counts.
    if (row is None) == ("observation" not in fields):
        raise RequestError(WRONG_VALUE, "needs one of observation and row", where=where, fix="send one of them")
    if row is not None and (not isinstance(row, dict) or "allowed" in fields):
        fix = "send the values by column; the allowed actions are columns, too"
        raise RequestError(
            WRONG_VALUE, "is not an object, or is sent together with allowed", where=f"{where}: row", fix=fix
        )
    outcome = fields.get("outcome")
    return ActRequest(
        session,
        fields.get("observation"),
        fields.get("allowed"),
        row,
        None if outcome is None else read_outcome(outcome, where=f"{where}: outcome", has_step=False),
        read_step(fields, where),
        read_flag(fields, "return_info", where),
        digest_of(fields) if "step" in fields else "",
    )


def read_outcome(body: object, *, where: str = "observe", has_step: bool = True) -> Outcome:
    """Return an outcome from ``{"reward", "action"}`` and further outcomes, all optional but the reward."""
    known = ("reward", "action", "outcomes", *(["step"] if has_step else []))
    fields = take(body, known, where=where, needed=["reward"])
    further = fields.get("outcomes", {})
    if not isinstance(further, dict):
        fix = 'send numbers by name, such as {"cost": 0.5}'
        raise RequestError(WRONG_VALUE, "is not an object", where=f"{where}: outcomes", fix=fix)
    # Without a step a repetition looks like a new outcome, so there is nothing to recognize it by.
    digest = digest_of(fields) if "step" in fields else ""
    reward = read_number(fields["reward"], f"{where}: reward")
    numbers = {name: read_number(value, f"{where}: {name:.100}") for name, value in further.items()}
    return Outcome(reward, fields.get("action"), numbers, read_step(fields, where), digest)


def read_number(value: Nested, where: str) -> float | None:
    """Return a number, or None for one that is not known.

    Raises:
        RequestError: It is something else, or too large for float32.
    """
    if value is None:
        return None
    # NumPy's scalars come from the WebSocket.
    plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    # `not ... <=` refuses NaN, too, since every comparison with it is false; `type` refuses True and False.
    if type(plain) not in (int, float) or not abs(plain) <= _LARGEST:
        fix = "send a finite number, or null if it is not known"
        raise RequestError(WRONG_VALUE, f"is {plain!r:.100}", where=where, fix=fix)
    return float(plain)


@dataclass(frozen=True)
class Start:
    """How a session begins."""

    target_return: float | None = None
    seed: int | None = None
    targets: Mapping[str, Nested] | None = None


def read_start(body: object, *, where: str = "session") -> Start:
    """Return the start of a session from ``{"target_return", "seed", "targets"}``, all optional."""
    fields = take(body, ("target_return", "seed", "targets"), where=where)
    seed = fields.get("seed")
    # `type` instead of `isinstance`, for which True is an int.
    if seed is not None and type(seed) is not int:
        raise RequestError(WRONG_VALUE, f"is {seed!r:.100}", where=f"{where}: seed", fix="send a whole number from 0")
    targets = fields.get("targets") or {}
    if not isinstance(targets, dict):
        fix = 'send numbers by name, such as {"cost_to_go": 25}'
        raise RequestError(WRONG_VALUE, "is not an object", where=f"{where}: targets", fix=fix)
    read = {name: _read_target(value, f"{where}: {name:.100}") for name, value in targets.items()}
    return Start(read_number(fields.get("target_return"), f"{where}: target_return"), seed, read)


def _read_target(value: Nested, where: str) -> float | list[float | None] | None:
    """Return the target of a condition: a number, or a list for a condition of several numbers."""
    return [read_number(one, where) for one in value] if isinstance(value, list) else read_number(value, where)


def read_step(fields: JsonMapping, where: str) -> int | None:
    """Return the optional number of the session's step."""
    step = fields.get("step")
    if step is not None and (type(step) is not int or step < 0):
        raise RequestError(
            WRONG_VALUE, f"is {step!r:.100}", where=f"{where}: step", fix="send the number of the step, 0 for the first"
        )
    return step


def read_flag(fields: JsonMapping, name: str, where: str) -> bool:
    """Return an optional true or false."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(WRONG_VALUE, f"is {value!r:.100}", where=f"{where}: {name}", fix="send true or false")
    return value


def read_session(value: object, where: str) -> str:
    """Return the id of a session as text."""
    if not isinstance(value, str):
        raise RequestError(
            NOT_FOUND, "is not the id of a session", where=where, fix="send the id that POST /v1/sessions returned"
        )
    return value


def digest_of(fields: JsonMapping) -> str:
    """Return a hash of a message, by which its repetition is recognized."""
    # Keys are sorted, because a client may order them otherwise when it repeats itself.
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
