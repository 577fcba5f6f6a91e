"""Robots: a WebSocket that speaks the protocol of openpi's client, one episode after the other on each connection.

The server sends a dict about itself. For each dict that the client sends it answers one with the action, or a text with an
error.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from functools import partial

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.actions import describe_space
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.answers import CONFLICT, MALFORMED, WRONG_VALUE, RequestError, error_body, internal_error
from rl_transformer.serve.arrays import pack, unpack
from rl_transformer.serve.dispatcher import Dispatcher
from rl_transformer.serve.guard import Rates, client_of
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.messages import read_act, read_flag, read_start, take
from rl_transformer.serve.service import Service

_LOG = logging.getLogger("rl_transformer.serve")
_FIELDS = (
    "observation", "allowed", "row", "return_info",  # of this step
    "reward", "action", "outcomes",  # of the step before
    "reset", "target_return", "seed", "targets",  # of a new episode
)  # fmt: skip
_START = ("target_return", "seed", "targets")
_OUTCOME = ("reward", "action", "outcomes")
_ACT = ("observation", "allowed", "row", "return_info")
_IDLE_CODE = 1001


class RobotSocket:
    """The WebSocket route of one server."""

    def __init__(self, service: Service, dispatcher: Dispatcher, limits: ServeLimits, rates: Rates) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._limits = limits
        self._rates = rates

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection until it ends."""
        await socket.accept()
        robot = _Robot(self._service, self._dispatcher)
        try:
            await socket.send_bytes(pack(self._describe()))
            while True:
                async with asyncio.timeout(self._limits.idle_seconds):
                    message = await socket.receive()
                if message["type"] != "websocket.receive":
                    break
                await self._reply(socket, robot, message.get("bytes"))
        except TimeoutError:
            await socket.close(_IDLE_CODE, "idle; see --idle-seconds")
        except (WebSocketDisconnect, RuntimeError):  # starlette's, for a client that is gone
            pass
        finally:
            await robot.end()

    async def _reply(self, socket: WebSocket, robot: _Robot, content: bytes | None) -> None:
        """Answer one message."""
        try:
            self._rates.count(client_of(socket.scope))
            if content is None:
                fix = "send bytes, as openpi's client does"
                raise RequestError(MALFORMED, "is text", where="message", fix=fix)
            answer = await robot.step(unpack(content, self._limits))
        except RLTransformerError as error:
            await socket.send_text(json.dumps(error_body(error)))
        except Exception:
            _LOG.exception("a fault in the WebSocket")
            await socket.send_text(json.dumps(error_body(internal_error())))
        else:
            await socket.send_bytes(pack(answer))

    def _describe(self) -> JsonObject:
        """Return what a client may want to know before its first message."""
        engine = self._service.sessions.current
        spec = engine.policy.spec
        return {
            "policy": engine.hash,
            "observation": describe_space(spec.data.observation_space),
            "action": describe_space(spec.data.action_space),
            "conditions": [condition.name for condition in spec.conditions],
            "suggested_targets": list(spec.suggested_targets),
            "fields": list(_FIELDS),
        }


class _Robot:
    """The episodes of one connection."""

    def __init__(self, service: Service, dispatcher: Dispatcher) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._session: str | None = None

    async def step(self, message: JsonObject) -> JsonObject:
        """Return the action for the observation in a message.

        Raises:
            RLTransformerError: The message is refused; the episode is as it was.
        """
        fields = take(message, _FIELDS, where="message")
        begins = self._session is None or read_flag(fields, "reset", "message")
        self._check_fields(fields, begins)
        outcome = None
        if not begins:
            outcome = {name: fields[name] for name in _OUTCOME if name in fields}
        act = {name: fields[name] for name in _ACT if name in fields}
        if not begins:
            return await self._act(str(self._session), act, outcome)
        start = read_start({name: fields[name] for name in _START if name in fields})
        opened = await self._dispatcher.call(partial(self._service.open, start))
        try:
            answer = await self._act(opened["session"], act, None)
        except BaseException:
            await self._close(opened["session"])  # the earlier episode goes on
            raise
        await self.end()
        self._session = opened["session"]
        notes = {name: opened[name] for name in ("seed", "note") if name in opened}
        return {**answer, **notes}

    def _check_fields(self, fields: JsonObject, begins: bool) -> None:
        """Raise an error for fields that would be ignored, and for an outcome that is left out."""
        for name in _OUTCOME if begins else _START:
            if name in fields:
                place = "at the beginning of an episode" if begins else "within an episode"
                fix = "leave it out, or send reset: True to begin another episode" if not begins else "leave it out"
                raise RequestError(CONFLICT, f"has no meaning {place}", where=f"message: {name}", fix=fix)
        if not begins and "reward" not in fields:
            fix = "send the reward of the last action, None if it is not known; or reset: True for a new episode"
            raise RequestError(WRONG_VALUE, "lacks the field reward", where="message", fix=fix)

    async def _act(self, session: str, act: JsonObject, outcome: JsonObject | None) -> JsonObject:
        """Let the session act; its action has a leading axis of one step, as openpi's clients expect."""
        request = read_act(session, {**act, **({} if outcome is None else {"outcome": outcome})}, where="message")
        answer = await self._dispatcher.act(request)
        if request.row is not None:
            return {**answer, "actions": [answer["action"]]}
        space = self._service.sessions.find(session).engine.policy.spec.data.action_space
        # An environment computes with the dtype that it gets, so it must be the one that a session gives.
        dtype = np.dtype(space.dtype if space.is_continuous else np.int64)
        return {**answer, "actions": np.asarray(answer["action"], dtype)[None]}

    async def end(self) -> None:
        """End the present episode."""
        if self._session is not None:
            await self._close(self._session)
        self._session = None

    async def _close(self, session: str) -> None:
        with suppress(RLTransformerError):  # it was idle for too long, or the server stops
            await self._dispatcher.call(partial(self._service.close, session), session)
