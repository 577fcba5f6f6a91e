"""One live episode.

Shapes: M length of a legal-action mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.legal_actions import legal_action_mask
from rl_transformer.policy.session_batch import SessionBatch
from rl_transformer.policy.validation import stack_live
from rl_transformer.runtime.shapes import Shaped
from rl_transformer.runtime.types import JsonObject, Nested


class PolicySession:
    """One live episode: `act` on an observation, then `observe` its outcome, and so on."""

    def __init__(self, batch: SessionBatch) -> None:
        self._batch = batch
        (self._row,) = batch.rows

    def __repr__(self) -> str:
        conditions = "".join(
            f", {name} {value:g}" for name, value in self.conditions.items() if isinstance(value, float)
        )
        waits = ", waiting for observe" if self._batch.awaits_outcome(self._row) else ""
        return f"PolicySession(step {int(self._batch.step[self._row])}{conditions}{waits})"

    @property
    def return_to_go(self) -> float:
        """The return that the session still aims for, in the environment's units.

        It is a return of the policy's kind (``returns.kind``); with next:N it stays what the caller set. Setting it
        changes the target from the next action on. Rewards of earlier actions that are still missing are not
        subtracted from it.

        Raises:
            RLTransformerError: The policy is not conditioned on a return; or, when it is set, the policy takes no target,
                the value is not finite, or an action awaits its outcome.
        """
        return float(self._batch.return_to_go[self._row])

    @return_to_go.setter
    def return_to_go(self, value: float) -> None:
        self._batch.set_return_to_go([self._row], [value])

    @property
    def conditions(self) -> dict[str, float | list[float]]:
        """Return the present value of every condition, in the data's units."""
        values = {name: value[self._row].tolist() for name, value in self._batch.conditions.items()}
        return {name: value[0] if len(value) == 1 else value for name, value in values.items()}

    def newest_window(self) -> tuple[Shaped[Tensor, "1 T ..."], ...] | None:
        """Return the model's inputs at the last action, until its outcome is observed; None if only a KV cache has them."""
        batch = self._batch
        slot = int(batch._rows.slots[self._row])
        return batch._predictor.newest_window(slot, int(batch.step[self._row]))

    def act(
        self,
        observation: Nested,
        allowed: ArrayLike | tuple[ArrayLike, ...] | None = None,
        *,
        return_info: bool = False,
    ) -> Any:
        """Return the action for one observation, in the environment's units.

        With ``return_info`` the result is (action, info), where info is a dict that JSON can hold:

        - ``propensity``: how likely this action was, and ``propensity_kind``: ``deterministic`` (1.0, the best action is
          always taken), ``probability``, ``density`` (in the environment's units), or ``unknown`` (None) where a sampled
          action was clipped, or where the head does not report it.
        - ``action_probabilities``: of all discrete actions, after the mask; a list per part of a multi-discrete action.
        - ``log_density``: of the action, with a gaussian head.
        - ``support``: ``distance`` of the observation to the nearest of the training observations that the policy stores
          (at most 1024, normalized), and ``share`` of these that are as far from their own neighbors; 1 is usual, 0 is
          farther than any. None for images and older policies.
        - ``target``: the return-to-go that is in force, and ``target_share``: the share of training episodes with at
          least that return, to about 1 %; of training steps, if returns belong to steps (``returns.kind``).

        Values that a policy does not have are None.

        Args:
            observation: What the environment returned, not normalized.
            allowed: (M,) booleans, True at legal discrete actions; for multi-discrete actions also a tuple with one
                mask per part.
            return_info: Return (action, info).

        Raises:
            RLTransformerError: A shape is wrong, a number is not finite, or `observe` was not called since the last
                action.
        """
        # A batch of one session. Mask and observation are read here, so that a message speaks of one session.
        policy = self._batch.policy
        legal = legal_action_mask(allowed, (), policy.spec, policy.model.predict_action)
        mask = None if legal is None else legal[None]
        stacked = stack_live(policy.spec.data.observation_space, observation)
        if not return_info:
            return self._batch.act([self._row], stacked, mask)[0]
        actions, infos = self._batch.act([self._row], stacked, mask, return_info=True)
        return actions[0], infos[0]

    def act_row(self, row: Mapping[str, object], *, return_info: bool = False) -> Any:
        """Return the action for a row of the table that the policy learned from, as values by column.

        Args:
            row: Values by column, as they stand in the log: what the policy sees, and which actions are allowed. Further
                columns are ignored. A category that was not in the training data is taken as unknown.
            return_info: Return (action, info); see `act`.

        Returns:
            The action, such as ``{"price": 3.5}``.

        Raises:
            RLTransformerError: The policy did not learn from a table, or a column is missing or holds something else.
        """
        spec = self._batch.policy.spec.data
        if spec.table is None:
            raise RLTransformerError(
                "this policy did not learn from a table", where="act_row", fix="pass the observation to act"
            )
        allowed = spec.table.allowed_actions(row)
        action, info = self.act(spec.table.observation(row), allowed, return_info=True)
        values = spec.table.action_row(action, spec.action_space)
        return (values, info) if return_info else values

    def observe(self, reward: float | None = None, *, action: Nested = None, **outcomes: float | None) -> None:
        """Report the outcome of the last action.

        Args:
            reward: Its reward. None leaves the return-to-go unchanged: the reward is not known yet (see `observe_late`), or
                never will be.
            action: What was executed, in the environment's units, if it was not the action of `act`: a safety layer or a
                person chose another one. The model then sees in its context what was done. None: that of `act`.
            outcomes: Further outcomes by name, such as ``cost=0.5``, if a condition needs them; None as for the reward.

        Raises:
            RLTransformerError: There was no action, a number is not finite, or the executed action is not one of the
                action space or was not allowed.
        """
        executed = None if action is None else [action]
        self._batch.observe([self._row], [reward], executed, **{name: [value] for name, value in outcomes.items()})

    def observe_late(self, reward: float | None = None, **outcomes: float | None) -> None:
        """Report a reward (or another outcome) that was None in an earlier `observe`, one call for each.

        It is clipped and subtracted as it would have been then. The order of late rewards does not matter.

        Raises:
            RLTransformerError: None is missing, so this one would be counted twice; or returns are discounted, where it
                would matter how late it is.
        """
        self._batch.observe_late([self._row], [reward], **{name: [value] for name, value in outcomes.items()})

    def state(self) -> JsonObject:
        """Return everything that the session needs to continue elsewhere, as a dict that JSON can hold.

        `Policy.restore` continues with the same actions to the bit, in another process or after a restart, with the same
        policy; also between `act` and `observe`.
        """
        return self._batch.state([self._row])
