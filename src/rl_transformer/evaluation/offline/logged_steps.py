"""The quantities of logged episodes from which a policy is judged, for any policy and behavior.

Shapes: N steps, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Float64, Int

_LARGEST_LOG_RATIO = 300.0


@dataclass(frozen=True)
class LoggedSteps:
    """Logged episodes as seen by one policy; the value of a policy is its expected undiscounted return."""

    offsets: Int[np.ndarray, "_"]
    """(E + 1,): episode e has the rows from offsets[e] up to, not including, offsets[e + 1]."""
    rewards: Float64[np.ndarray, "N"]
    log_policy: Float64[np.ndarray, "N"]
    """Log-probability of the logged action under the judged policy; minus infinity where it never takes that action."""
    log_behavior: Float64[np.ndarray, "N"]
    """Log-probability of the logged action under the behavior that produced the log."""
    action_values: Float64[np.ndarray, "N"] | None = None
    """The critic's value of the logged action, fitted on other episodes; None without a critic."""
    state_values: Float64[np.ndarray, "N"] | None = None
    """The critic's value of the state, averaged over the judged policy's actions."""
    marginal_ratios: Float64[np.ndarray, "N"] | None = None
    """Ratio of the judged policy's frequency of this state and action to that of the behavior, if known."""
    entities: Int[np.ndarray, "E"] | None = None
    """Number of the patient, user or machine of each episode; None: every episode is one of its own."""
    folds: Int[np.ndarray, "E"] | None = None
    """Number of the fold of each episode: critic and estimated behavior were fitted without it. None: nothing was fitted."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.rewards).all():
            raise RLTransformerError("rewards are not finite", where="rewards", fix="repair the data")
        if not np.isfinite(self.log_behavior).all():
            raise RLTransformerError(
                "the behavior has probability 0 for an action that it took",
                where="propensities",
                fix="record the probability with which each logged action was drawn, above 0",
            )

    @property
    def num_episodes(self) -> int:
        """Return E."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Int[np.ndarray, "E"]:
        """Return the steps of each episode."""
        return np.diff(self.offsets)

    @cached_property
    def timesteps(self) -> Int[np.ndarray, "N"]:
        """Return the timestep of each row, counted from 0 in its episode."""
        return np.arange(len(self.rewards)) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def is_last(self) -> Bool[np.ndarray, "N"]:
        """Return True at the last step of its episode."""
        return last_steps(self.offsets)

    @cached_property
    def returns(self) -> Float64[np.ndarray, "E"]:
        """Return the return of each logged episode."""
        return self.sum_by_episode(self.rewards)

    def sum_by_episode(self, values: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "E"]:
        """Return the sum over the steps of each episode."""
        return np.add.reduceat(values, self.offsets[:-1])

    @cached_property
    def cumulative_ratios(self) -> Float64[np.ndarray, "N"]:
        """Return the product of policy / behavior from the first step up to and including this one."""
        logs = self.log_policy - self.log_behavior
        # Sums of minus infinity would make NaN when an earlier episode's sum is taken away.
        is_zero = np.isneginf(logs)
        finite = np.where(is_zero, 0.0, logs)
        sums = _cumulative(finite, self.offsets, self.lengths)
        ended = _cumulative(is_zero.astype(np.float64), self.offsets, self.lengths) > 0
        # Beyond this size a single episode has all the weight anyway, and its square must remain a number.
        return np.where(ended, 0.0, np.exp(np.minimum(sums, _LARGEST_LOG_RATIO)))

    @cached_property
    def corrections(self) -> Float64[np.ndarray, "N"]:
        """Return what each step's outcome says beyond the critic: reward + next state's value - action's value."""
        if self.action_values is None or self.state_values is None:
            return self.rewards
        following = np.append(self.state_values[1:], 0.0)
        following[self.offsets[1:] - 1] = 0.0  # nothing follows an episode's last step
        return self.rewards + following - self.action_values

    @cached_property
    def start_values(self) -> Float64[np.ndarray, "E"]:
        """Return the critic's value of each first state; zeros without a critic."""
        if self.state_values is None:
            return np.zeros(self.num_episodes)
        return self.state_values[self.offsets[:-1]]

    @cached_property
    def last_ratios(self) -> Float64[np.ndarray, "E"]:
        """Return policy / behavior of each whole episode."""
        return self.cumulative_ratios[self.offsets[1:] - 1]

    def without_critic(self) -> LoggedSteps:
        """Return the same steps for estimators that use no critic."""
        return replace(self, action_values=None, state_values=None)

    def with_clipped_ratios(self, most: float) -> LoggedSteps:
        """Return the steps with every single ratio policy / behavior clipped to ``most``."""
        return replace(self, log_policy=np.minimum(self.log_policy, self.log_behavior + np.log(most)))


def last_steps(offsets: Int[np.ndarray, "_"]) -> Bool[np.ndarray, "N"]:
    """Return True at the last step of each episode."""
    is_last = np.zeros(int(offsets[-1]), dtype=bool)
    is_last[offsets[1:] - 1] = True
    return is_last


def _cumulative(
    values: Float64[np.ndarray, "N"], offsets: Int[np.ndarray, "_"], lengths: Int[np.ndarray, "E"]
) -> Float64[np.ndarray, "N"]:
    """Return sums from each episode's first step on."""
    sums = np.cumsum(values)
    before = np.append(0.0, sums)[offsets[:-1]]
    return sums - np.repeat(before, lengths)
