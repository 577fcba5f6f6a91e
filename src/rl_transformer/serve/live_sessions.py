"""All live sessions of a server, and the policies that they began with."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.answers import NOT_FOUND, UNAVAILABLE, RequestError
from rl_transformer.serve.live import Engine, LiveSession, key_of, read_record
from rl_transformer.serve.stores import SessionStore

_LOG = logging.getLogger("rl_transformer.serve")


class LiveSessions:
    """Live sessions by the hash of their id. A session stays with the policy that it began with."""

    def __init__(self, policy: Policy, store: SessionStore | None, clock: Callable[[], float]) -> None:
        self.current = Engine(policy)
        self.engines = {self.current.hash: self.current}
        self._by_key: dict[str, LiveSession] = {}
        self._store = store
        self._clock = clock
        if store is not None:
            store.keep_policy(self.current.hash, policy)
            self._restore_all(store)

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, engine: Engine, row: int) -> str:
        """Return the id of a new session, which nobody can guess."""
        # The store knows only a hash of it, so that whoever reads the store cannot act in sessions.
        session = secrets.token_urlsafe(32)
        live = LiveSession(engine, row, self._clock(), key_of(session))
        self._by_key[live.key] = live
        try:
            self.save(live)
        except RLTransformerError:
            # Its id goes to nobody, so that no client could ever end it.
            self.end(live)
            raise
        return session

    def find(self, session: str) -> LiveSession:
        """Return a session and note that it is used."""
        live = self._by_key.get(key_of(session))
        if live is None:
            problem = "there is no such session; it has ended, or it expired unused"
            raise RequestError(NOT_FOUND, problem, where="session", fix="start one with POST /v1/sessions")
        live.used = self._clock()
        return live

    def end(self, live: LiveSession) -> None:
        """End a session."""
        del self._by_key[live.key]
        live.engine.batch.close([live.row])
        self._forget_unused()
        if self._store is not None:
            self._store.remove(live.key)

    def end_idle(self, seconds: float) -> int:
        """End the sessions that were not used for so long, and return how many these were."""
        oldest = self._clock() - seconds
        # A list first, because ending sessions changes the dictionary.
        idle = [live for live in self._by_key.values() if live.used < oldest]
        for live in idle:
            self.end(live)
        return len(idle)

    def move(self, live: LiveSession, engine: Engine, row: int) -> None:
        """Let a session continue in another row, perhaps of another policy."""
        live.engine.batch.close([live.row])
        live.engine = engine
        live.row = row
        # Answers to the history that this one replaces must not be repeated.
        live.acted = None
        live.observed = None
        self._forget_unused()

    def save(self, live: LiveSession) -> None:
        """Write a session's record, if sessions are kept.

        Raises:
            RequestError: It cannot be written. The session has changed; its next answer comes after the next attempt.
        """
        if self._store is None:
            return
        try:
            self._store.put(live.key, live.to_record())
        except RLTransformerError as error:
            _LOG.error("a session cannot be saved: %s: %s", error.where, error.problem)
            fix = "send the same request again, with its step; the operator finds the cause in the log"
            raise RequestError(
                UNAVAILABLE, "the session cannot be saved", where="server", fix=fix, retry_after=1
            ) from None

    def use(self, policy: Policy) -> bool:
        """Let new sessions begin with another policy; return False if it is the present one."""
        name = policy.content_hash
        if name == self.current.hash:
            return False
        # Kept before the first session begins with it: a restart needs the policy of every kept session.
        if self._store is not None:
            self._store.keep_policy(name, policy)
        self.current = self.engines.setdefault(name, Engine(policy))
        self._forget_unused()
        return True

    def _forget_unused(self) -> None:
        """Drop older policies that have no session."""
        for name, engine in list(self.engines.items()):
            if engine is not self.current and not len(engine.batch):
                del self.engines[name]
                if self._store is not None:
                    self._store.remove_policy(name)

    def _restore_all(self, store: SessionStore) -> None:
        """Continue the sessions that an earlier server has left; one that cannot be is named in the log."""
        # One damaged record must not cost the others.
        for key, record in list(store.items()):
            try:
                if isinstance(record, RLTransformerError):
                    raise record
                self._restore(store, key, record)
            except RLTransformerError as error:
                # It stays in the store: the operator may have named another policy by mistake.
                _LOG.error("a session cannot be continued: %s: %s", error.where, error.problem)
        self._forget_unused()

    def _restore(self, store: SessionStore, key: str, record: JsonObject) -> None:
        """Continue one session."""
        used, state, acted, observed = read_record(record, where="a kept session")
        engine = self.engines.get(str(state.get("policy"))) or self._earlier(store, str(state.get("policy")))
        (row,) = engine.batch.restore(state)
        self._by_key[key] = LiveSession(engine, row, used, key, acted, observed)

    def _earlier(self, store: SessionStore, name: str) -> Engine:
        """Return an earlier policy; if it was not kept the present one, which refuses the state and says why."""
        policy = store.find_policy(name)
        # The store's name is only a claim; a session must not go on with other weights.
        if policy is None or policy.content_hash != name:
            return self.current
        return self.engines.setdefault(name, Engine(policy))


def only_session(state: JsonObject) -> JsonObject:
    """Return a state after a check that it holds one session."""
    held = state.get("sessions")
    if not isinstance(held, list) or len(held) != 1:
        raise RLTransformerError("does not hold one session", where="state", fix="send what GET returned, unchanged")
    return state
