"""One live episode.

Shapes: M length of a legal-action mask.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from rl_transformer.policy.session_batch import SessionBatch
from rl_transformer.runtime.types import Nested
from rl_transformer.trajectories.nested import stack


class PolicySession:
    """One live episode: `act` on an observation, then `observe` its outcome, and so on."""

    def __init__(self, batch: SessionBatch) -> None:
        self._batch = batch

    @property
    def return_to_go(self) -> float:
        """Return the return that the session still aims for, in the environment's units."""
        return float(self._batch.return_to_go[0])

    @property
    def conditions(self) -> dict[str, float | list[float]]:
        """Return the present value of every condition, in the data's units."""
        values = {name: value[0].tolist() for name, value in self._batch.conditions.items()}
        return {name: value[0] if len(value) == 1 else value for name, value in values.items()}

    def act(self, observation: Nested, allowed: ArrayLike | tuple[ArrayLike, ...] | None = None) -> Nested:
        """Return the action for one observation, in the environment's units.

        Args:
            observation: What the environment returned, not normalized.
            allowed: (M,) booleans, True at legal discrete actions; for multi-discrete actions also a tuple with one
                mask per part.

        Raises:
            RLTransformerError: A shape is wrong, a number is not finite, or `observe` was not called since the last
                action.
        """
        # A batch of one session. A mask may have parts of different lengths, which only a tuple can hold.
        if isinstance(allowed, tuple) and self._batch.policy.spec.model.action_parts:
            mask: Any = tuple([part] for part in allowed)
        else:
            mask = None if allowed is None else [allowed]
        return self._batch.act([0], stack([observation]), mask)[0]

    def observe(self, reward: float, **outcomes: float) -> None:
        """Report the outcome of the last action.

        Args:
            reward: Its reward.
            outcomes: Further outcomes by name, such as ``cost=0.5``, if a condition needs them.
        """
        self._batch.observe([0], [reward], **{name: [value] for name, value in outcomes.items()})
