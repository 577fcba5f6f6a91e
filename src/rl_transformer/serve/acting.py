"""Let sessions act together: check each request for itself, then compute all of them in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.legal_actions import legal_action_mask
from rl_transformer.policy.validation import flatten_live, stack_live
from rl_transformer.runtime.types import JsonObject, Nested
from rl_transformer.serve.answers import CONFLICT, RequestError
from rl_transformer.serve.live import LiveSession
from rl_transformer.serve.messages import ActRequest, Outcome
from rl_transformer.serve.values import read_mask, read_numbers, read_observation, to_plain
from rl_transformer.trajectories.nested import stack

Result = JsonObject | Exception


@dataclass(frozen=True)
class Ready:
    """A request that has passed all checks."""

    request: ActRequest
    live: LiveSession
    observation: Nested
    mask: np.ndarray | None


def prepare(live: LiveSession, request: ActRequest) -> Ready:
    """Return a request that can be computed; the outcome in it is reported last, after every other check.

    Raises:
        RLTransformerError: The session cannot act now, or a value is wrong; the session is unchanged.
    """
    _check_order(live, request)
    policy = live.engine.policy
    spec = policy.spec
    space = spec.data.observation_space
    observation = request.observation
    allowed = read_mask(request.allowed)
    if request.row is not None:
        table = spec.data.table
        if table is None:
            problem = "this policy did not learn from a table"
            raise RLTransformerError(problem, where="act: row", fix="send the observation")
        observation = table.observation(request.row)
        allowed = table.allowed_actions(request.row)
    observation = read_observation(space, observation)
    flatten_live(space, stack_live(space, observation), 1)
    mask = legal_action_mask(allowed, (), spec, policy.model.predict_action)
    # This changes the session, so every check comes before it.
    if request.outcome is not None:
        report(live, request.outcome)
    return Ready(request, live, observation, mask)


def _check_order(live: LiveSession, request: ActRequest) -> None:
    """Raise an error if a session cannot act now, or not with this step."""
    if live.awaits_outcome and request.outcome is None:
        fix = "observe its outcome first; for an answer that was lost, send the same request with the same step"
        raise RequestError(CONFLICT, f"the action of step {live.step} awaits its outcome", where="act", fix=fix)
    if request.outcome is not None and not live.awaits_outcome:
        fix = "leave it out; an outcome counts once"
        raise RequestError(CONFLICT, "no action awaits an outcome", where="act: outcome", fix=fix)
    # An outcome in the same request completes its step, so that the one after it acts.
    following = live.step + live.awaits_outcome
    if request.step not in (None, following):
        problem = f"step {request.step} is sent, and the next one is {following}"
        raise RequestError(CONFLICT, problem, where="act: step", fix="act in order")


def report(live: LiveSession, outcome: Outcome) -> None:
    """Report an outcome to the policy's session.

    Raises:
        RLTransformerError: A value is wrong; the session is unchanged.
    """
    action = outcome.action
    if action is not None:
        action = [read_numbers(action, "action", fix="send what was executed, in the form in which act answers")]
    further = {name: [value] for name, value in (outcome.further or {}).items()}
    live.engine.batch.observe([live.row], [outcome.reward], action, **further)


def act_together(group: Sequence[Ready]) -> list[Result]:
    """Return an answer or an error for each of some sessions of one policy."""
    engine = group[0].live.engine
    rows = [ready.live.row for ready in group]
    observations = stack([ready.observation for ready in group])
    masks = [ready.mask for ready in group]
    allowed = None
    if any(mask is not None for mask in masks):
        # A session without a mask may take every action; the batch needs a row for each.
        every = np.ones(engine.policy.model.predict_action.num_allowed, dtype=bool)
        allowed = np.stack([every if mask is None else mask for mask in masks])
    # A batch computes it for all or none; `_answer` leaves it out where nobody wants it.
    wants_info = any(ready.request.return_info for ready in group)
    try:
        acted = engine.batch.act(rows, observations, allowed, return_info=wants_info)
    except RLTransformerError as error:
        # The model overflows in one session; the others shall not suffer from it.
        return [error] if len(group) == 1 else [act_together([ready])[0] for ready in group]
    actions, infos = acted if wants_info else (acted, [None] * len(group))
    return [_answer(ready, action, info) for ready, action, info in zip(group, actions, infos, strict=True)]


def _answer(ready: Ready, action: Nested, info: JsonObject | None) -> JsonObject:
    """Return the answer to a session that has acted."""
    live = ready.live
    data = live.engine.policy.spec.data
    plain = to_plain(action)
    if ready.request.row is not None and data.table is not None:
        plain = data.table.action_row(action, data.action_space)
    answer = {"action": plain, "policy": live.engine.hash, "step": live.step}
    return {**answer, "info": info} if ready.request.return_info else answer
