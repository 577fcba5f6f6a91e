"""What a server does for its clients, without the network: start, act, observe, move and end sessions.

One thread at a time calls it. An error leaves the session as it was.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject
from rl_transformer.serve.acting import Ready, Result, act_together, prepare, report
from rl_transformer.serve.answers import CONFLICT, TOO_MANY, RequestError, beyond
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.live import LiveSession, Remembered
from rl_transformer.serve.live_sessions import LiveSessions, only_session
from rl_transformer.serve.messages import ActRequest, Outcome, Start
from rl_transformer.serve.stores import SessionStore

_RETRY_SECONDS = 1


class Service:
    """A policy and its live sessions."""

    def __init__(
        self,
        policy: Policy,
        limits: ServeLimits,
        store: SessionStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.sessions = LiveSessions(policy, store, clock)

    def open(self, start: Start) -> JsonObject:
        """Start a session with the newest policy and return its id.

        Raises:
            RLTransformerError: There are too many sessions, or the policy refuses a target or the seed.
        """
        if len(self.sessions) >= self.limits.max_sessions:
            problem = f"{len(self.sessions):,} sessions are live"
            raise beyond(
                self.limits, "max_sessions", problem, where="session", status=TOO_MANY, retry_after=_RETRY_SECONDS
            )
        # Clients that send no seed shall not all draw the same numbers.
        seed = secrets.randbelow(2**32) if start.seed is None else start.seed
        engine = self.sessions.current
        (row,) = engine.batch.add([start.target_return], [seed], targets=start.targets or {})
        session = self.sessions.add(engine, row)
        answer = {"session": session, "policy": engine.hash, "seed": seed}
        given = [] if start.target_return is None else [start.target_return]
        note = engine.policy.target_warning(given, start.targets)
        return answer if note is None else {**answer, "note": note}

    def act(self, requests: Sequence[ActRequest]) -> list[Result]:
        """Return an answer or an error for each request; all that can act do so in one forward pass per policy.

        Args:
            requests: Of distinct sessions.
        """
        results: dict[int, Result] = {}
        groups: dict[str, dict[int, Ready]] = {}
        for place, request in enumerate(requests):
            try:
                live = self.sessions.find(request.session)
                if request.step is not None and live.acted is not None and live.acted.step == request.step:
                    results[place] = self._repeat(live, live.acted, request.digest, where="act")
                else:
                    groups.setdefault(live.engine.hash, {})[place] = prepare(live, request)
            except Exception as error:  # a fault that one request meets is no answer to the others
                results[place] = error
        for group in groups.values():
            for place, result in zip(group, act_together(list(group.values())), strict=True):
                results[place] = self._finish_act(group[place], result)
        return [results[place] for place in range(len(requests))]

    def _finish_act(self, ready: Ready, result: Result) -> Result:
        """Return the answer to a session that has acted, after it was saved."""
        if isinstance(result, Exception):
            return result
        ready.live.acted = Remembered(result["step"], ready.request.digest, result)
        try:
            self.sessions.save(ready.live)
        except RLTransformerError as error:
            return error
        return result

    def observe(self, session: str, outcome: Outcome) -> JsonObject:
        """Report what followed from the last action of a session.

        Raises:
            RLTransformerError: No action awaits an outcome, or a value is wrong.
        """
        live = self.sessions.find(session)
        if outcome.step is not None and live.observed is not None and live.observed.step == outcome.step:
            return self._repeat(live, live.observed, outcome.digest, where="observe")
        step = live.step
        if not live.awaits_outcome:
            fix = "act first; an outcome counts once"
            raise RequestError(CONFLICT, "no action awaits an outcome", where="observe", fix=fix)
        if outcome.step not in (None, step):
            problem = f"step {outcome.step} was sent, but the action of step {step} awaits its outcome"
            raise RequestError(CONFLICT, problem, where="observe: step", fix="report outcomes in order")
        report(live, outcome)
        live.observed = Remembered(step, outcome.digest, {"policy": live.engine.hash, "step": live.step})
        self.sessions.save(live)
        return live.observed.answer

    def _repeat(self, live: LiveSession, last: Remembered, digest: str, *, where: str) -> JsonObject:
        """Return the answer that was given to the same request before."""
        if not digest or digest != last.digest:
            problem = f"step {last.step} was already answered, for a request with different content"
            raise RequestError(CONFLICT, problem, where=f"{where}: step", fix="send the step that comes next")
        self.sessions.save(live)  # perhaps the last attempt failed
        return last.answer

    def state(self, session: str) -> JsonObject:
        """Return the state of a session, with which `Policy.restore` or another server continues."""
        return self.sessions.find(session).state()

    def put_state(self, session: str, state: JsonObject) -> JsonObject:
        """Let a session continue from a state.

        Raises:
            RLTransformerError: It is not the state of one session of a policy that this server has.
        """
        live = self.sessions.find(session)
        # With the hash of an unknown policy, the session's own one refuses the state in a message that names both.
        engine = self.sessions.engines.get(str(state.get("policy")), live.engine)
        (row,) = engine.batch.restore(only_session(state))
        self.sessions.move(live, engine, row)
        self.sessions.save(live)
        return {"policy": engine.hash, "step": live.step}

    def close(self, session: str) -> JsonObject:
        """End a session."""
        live = self.sessions.find(session)
        self.sessions.end(live)
        return {"policy": live.engine.hash}

    def end_idle(self) -> int:
        """End the sessions that were not used for long, and return how many these were."""
        return self.sessions.end_idle(self.limits.idle_seconds)
