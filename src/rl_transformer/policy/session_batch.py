"""Live episodes that act together. A policy acts in no other way: a single episode is a batch of one.

Shapes: S rows, R sessions that act now, W width of a condition, F parameters of the action head, M length of a legal-action
mask; *action are the axes of one action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_transformer.conditions.interface import Target
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.action_info import describe_actions
from rl_transformer.policy.actions import ActionUnits, check_executed, select_executed
from rl_transformer.policy.legal_actions import legal_action_mask
from rl_transformer.policy.predictor import ActingPolicy, Predictor
from rl_transformer.policy.session_rows import SessionRows, read_only
from rl_transformer.policy.session_state import Start, pack, unpack
from rl_transformer.policy.validation import (
    as_list,
    check_finite_actions,
    check_needed,
    check_starts,
    flatten_live,
    read_outcomes,
)
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int, Shaped
from rl_transformer.runtime.types import JsonMapping, JsonObject, Nested


class SessionBatch:
    """Live episodes that act together; each sees only its own history, and acts the same to the bit as it would alone.

    Every session has a row, a number that stays the same until `close`; `add` gives free rows out again. Memory is bounded
    by the number of live sessions. A batch belongs to one thread at a time.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        *,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        self.policy = policy
        self._targets = targets
        self._hash: str | None = None
        self._predictor = Predictor(policy, 0)
        self._history = self._predictor.history
        self._device = policy.device
        self._units = ActionUnits(policy.spec.data.action_space, policy.normalizer, self._device)
        self._rows = SessionRows(policy.spec, self._predictor)
        self.add(target_returns, seeds)

    def __len__(self) -> int:
        """Return the number of live sessions."""
        return int(self._rows.is_open.sum())

    def __repr__(self) -> str:
        return f"SessionBatch({len(self)} live sessions of {self.policy!r})"

    @property
    def rows(self) -> list[int]:
        """Return the rows of all live sessions."""
        return np.flatnonzero(self._rows.is_open).tolist()

    @property
    def step(self) -> Int[np.ndarray, "S"]:
        """Return the timestep of each row's next action; read-only."""
        return read_only(self._rows.step)

    @property
    def conditions(self) -> dict[str, Float64[np.ndarray, "S W"]]:
        """Return the present value of each condition, in the data's units; read-only, see `set_return_to_go`."""
        return {name: read_only(values) for name, values in self._rows.conditions.items()}

    def awaits_outcome(self, row: int) -> bool:
        """Return True if a session has acted and its outcome was not observed yet."""
        return bool(self._rows.awaits_outcome[row])

    @property
    def nbytes(self) -> int:
        """Return the memory of histories and caches, in bytes; the model's is not included."""
        return self._predictor.nbytes

    def add(
        self,
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        *,
        targets: Mapping[str, Target] | None = None,
    ) -> list[int]:
        """Start new sessions and return their rows.

        Args:
            target_returns: One per session, as in `Policy.session`.
            seeds: One per session.
            targets: Targets of further conditions for all of them; None: those that the batch was made with.
        """
        starts = self._check_starts(target_returns, seeds, targets)
        rows = self._rows.open(len(starts))
        self._rows.begin_all(rows, starts)
        return rows

    def _check_starts(
        self,
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        targets: Mapping[str, Target] | None,
        count: int | None = None,
    ) -> list[Start]:
        """Return how new episodes begin; everything is checked before anything is written."""
        returns, checked = check_starts(target_returns, seeds, count)
        chosen = self._targets if targets is None else targets
        starts = zip(checked, returns, strict=True)
        return [Start(seed, self.policy.initial_conditions(target, chosen), target is None) for seed, target in starts]

    def close(self, rows: Sequence[int] | np.ndarray) -> None:
        """End sessions and free their memory; `add` gives their rows out again."""
        self._rows.close(self._rows.check(rows))

    def reset(
        self,
        rows: Sequence[int],
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        *,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        """Begin new episodes in the sessions ``rows``; arguments as in `add`."""
        checked = self._rows.check(rows).tolist()
        starts = self._check_starts(target_returns, seeds, targets, len(checked))
        self._rows.begin_all(checked, starts)

    @property
    def return_to_go(self) -> Float64[np.ndarray, "S"]:
        """Return the return that each row still aims for, in the environment's units; a copy.

        Raises:
            RLTransformerError: The policy is not conditioned on a return.
        """
        if "return_to_go" not in self.conditions:
            problem = "this policy is not conditioned on a return"
            raise RLTransformerError(problem, where="return_to_go", fix="read session.conditions")
        return read_only(self.conditions["return_to_go"][:, 0].copy())

    def set_return_to_go(self, rows: Sequence[int] | np.ndarray, values: Sequence[float]) -> None:
        """Set the return to aim for from the next action on; rewards that are still missing will not be subtracted.

        Raises:
            RLTransformerError: The policy takes no target, a value is not finite, or an action awaits its outcome.
        """
        checked = self._rows.check(rows)
        listed = as_list(values, where="return_to_go")
        if len(listed) != len(checked):
            raise RLTransformerError(
                f"{len(listed)} values for {len(checked)} sessions", where="return_to_go", fix="pass one per session"
            )
        numbers = [self.policy.check_return_to_go(value) for value in listed]
        # It would not be clear whether the reward of that action is part of the new return.
        self._rows.check_idle(checked, where="return_to_go", fix="call observe() first, then set it")
        for number in numbers:
            self.policy.note_target(number)
        self._rows.set_return_to_go(checked, numbers)

    @torch.inference_mode()
    def act(
        self,
        rows: Sequence[int] | np.ndarray,
        observations: Nested,
        allowed: ArrayLike | tuple[ArrayLike, ...] | None = None,
        *,
        return_info: bool = False,
    ) -> Any:
        """Return an action in the environment's units for each of ``rows``.

        Args:
            rows: Sessions that act now.
            observations: One observation for each of them, along a leading axis R; nested like the observation space.
            allowed: (R, M) booleans, True at legal discrete actions. For multi-discrete actions the parts' masks one
                after the other, or a tuple with one (R, n) mask per part.
            return_info: Return a list of dicts as well, one per session; see `PolicySession.act`.
        """
        rows = self._rows.check(rows)
        self._rows.check_idle(rows, where="act", fix="call observe(reward) after every action")
        spec = self.policy.spec
        legal = legal_action_mask(allowed, (len(rows),), spec, self.policy.model.predict_action)
        mask = None if legal is None else torch.from_numpy(legal).to(self._device)
        flat = flatten_live(spec.data.observation_space, observations, len(rows))
        if (waiting := self._rows.awaits_target[rows]).any():
            self._rows.choose_targets(rows[waiting], self.policy.normalized(flat[waiting]))
        slots = self._rows.slots[rows]
        steps = self.step[rows]
        conditions = self._rows.conditions
        self._predictor.write_step(slots, steps, flat, {name: value[rows] for name, value in conditions.items()})
        parameters, generated = self._predictor.parameters(slots, steps)
        if generated is not None:
            conditions["return_to_go"][rows, 0] = generated
        check_finite_actions(parameters, {name: value[rows] for name, value in conditions.items()})
        drawn = self._choose(rows, parameters, mask)
        actions = self._units.to_environment(drawn)
        # The history holds what is executed, as the logged data does: after clipping and rounding.
        executed = self._units.to_model(actions)
        self._predictor.write_actions(slots, steps, executed)
        self._rows.mark_acted(rows, mask)
        if not return_info:
            return actions
        states = self._predictor.newest_states(slots, steps)
        targets = conditions["return_to_go"][rows, 0] if "return_to_go" in conditions else None
        return actions, describe_actions(self.policy, parameters, mask, drawn, executed, states, targets)

    def _choose(
        self, rows: Int[np.ndarray, "R"], parameters: Float[Tensor, "R F"], allowed: Bool[Tensor, "R M"] | None
    ) -> Shaped[Tensor, "R *action"]:
        """Return greedy or sampled actions in the model's units."""
        head = self.policy.model.predict_action
        if self.policy.spec.action_selection == "greedy":
            return head.greedy(parameters, allowed)
        # Every session has a generator of its own, so its draws do not depend on who else acts.
        uniforms = torch.from_numpy(np.stack([self._rows.draw(row, head.num_uniforms) for row in rows]))
        return head.sample(parameters, uniforms.to(parameters.device), allowed)

    def observe(
        self,
        rows: Sequence[int] | np.ndarray,
        rewards: Sequence[float | None] | np.ndarray | None = None,
        actions: Sequence[Nested] | np.ndarray | None = None,
        **outcomes: ArrayLike | Sequence[float | None] | None,
    ) -> None:
        """Report the outcome of the last actions of the sessions ``rows``.

        Args:
            rows: Sessions that acted.
            rewards: The reward of each. None, for all or for some, leaves the return-to-go as it is; see `observe_late`.
            actions: What was executed, where it was not the action of `act`, and None elsewhere; in the environment's
                units.
            outcomes: Further outcomes of each, by name, such as ``cost``, if a condition needs them.
        """
        rows = self._rows.check(rows)
        check_needed(outcomes, self._rows.further_outcomes)
        reported = read_outcomes(rows, rewards, outcomes, self._rows.further_outcomes)
        places, given = select_executed(actions, len(rows))
        self._rows.check_acted(rows)
        changed = rows[places]
        allowed = [self._rows.allowed[row] for row in changed]
        executed = check_executed(given, self.policy.spec.data.action_space, allowed)
        # Everything is checked before anything is written, so that a refused outcome leaves the sessions unchanged.
        following = self._rows.conditions_after(rows, reported)
        if executed is not None:
            slots = self._rows.slots[changed]
            self._predictor.write_actions(slots, self.step[changed], self._units.to_model(executed))
        self._rows.mark_observed(rows, following, reported)

    def observe_late(
        self,
        rows: Sequence[int] | np.ndarray,
        rewards: Sequence[float | None] | np.ndarray | None = None,
        **outcomes: ArrayLike | Sequence[float | None] | None,
    ) -> None:
        """Report outcomes that were None in an earlier `observe`, one at a time and at any time; None: still not known.

        Each is charged as it would have been then; what the model has read in the meantime stays as it was.

        Raises:
            RLTransformerError: A session has no missing outcome of this kind, because it could be charged twice.
        """
        rows = self._rows.check(rows)
        reported = read_outcomes(rows, rewards, outcomes, self._rows.further_outcomes)
        self._rows.charge_late(rows, reported)

    def state(self, rows: Sequence[int] | np.ndarray | None = None) -> JsonObject:
        """Return everything that the sessions ``rows`` (None: all) need to continue elsewhere, as values for JSON.

        `Policy.restore_sessions` continues to the bit; see `PolicySession.state`.
        """
        checked = self.rows if rows is None else self._rows.check(rows).tolist()
        self._hash = self._hash or self.policy.content_hash
        return pack(self._hash, [self._rows.read(row) for row in checked])

    def restore(self, state: JsonMapping) -> list[int]:
        """Add the sessions of a state, of this policy, and return their rows in its order.

        Raises:
            RLTransformerError: The state belongs to another policy or a later version, or is damaged.
        """
        self._hash = self._hash or self.policy.content_hash
        sessions = unpack(state, self._hash, self._predictor.state_format)
        rows = self._rows.open(len(sessions))
        for row, session in zip(rows, sessions, strict=True):
            self._rows.write(row, session)
        return rows
