"""Critic, behavior and state frequencies by counting, for discrete states and actions.

Shapes: N steps, S states, A actions, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Float64, Int

_PRIOR = 1.0  # pseudo-steps of the state's mean outcome per action, so that a rare action's value is not one accident
_TOLERANCE = 1e-10
_MAX_SWEEPS = 100_000


@dataclass(frozen=True)
class TabularLog:
    """Logged steps whose states and actions are numbers."""

    states: Int[np.ndarray, "N"]
    actions: Int[np.ndarray, "N"]
    rewards: Float64[np.ndarray, "N"]
    is_last: Bool[np.ndarray, "N"]
    """True at the last step of its episode."""
    num_states: int
    num_actions: int

    def select(self, rows: Bool[np.ndarray, "N"]) -> TabularLog:
        """Return the steps of whole episodes."""
        return replace(
            self,
            states=self.states[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            is_last=self.is_last[rows],
        )


class TabularModel:
    """Mean rewards and transitions of a log, shrunk towards those of the state where an action is rare.

    Evaluating a policy in it is fitted Q evaluation with one parameter per state and action.
    """

    def __init__(self, log: TabularLog) -> None:
        self._num_states = log.num_states
        self._num_actions = log.num_actions
        pairs = log.states * log.num_actions + log.actions
        following = np.append(log.states[1:], 0)
        goes_on = ~log.is_last
        self.state_counts = np.bincount(log.states, minlength=log.num_states)
        self.pair_counts = np.bincount(pairs, minlength=log.num_states * log.num_actions)
        self._by_pair = _mean_matrix(pairs, following, goes_on, self.pair_counts, log.num_states)
        self._by_state = _mean_matrix(log.states, following, goes_on, self.state_counts, log.num_states)
        size = len(self.pair_counts)
        self._pair_rewards = np.bincount(pairs, log.rewards, size) / np.maximum(self.pair_counts, 1)
        state_sums = np.bincount(log.states, log.rewards, log.num_states)
        # A state that never occurred in this log ends the episode and earns nothing.
        self._state_rewards = state_sums / np.maximum(self.state_counts, 1)
        starts = log.states[np.append(True, log.is_last[:-1])]
        self._start = np.bincount(starts, minlength=log.num_states) / len(starts)
        self.behavior_visits = self.state_counts / len(starts)

    def action_values(self, policy: Float64[np.ndarray, "S A"]) -> Float64[np.ndarray, "S A"]:
        """Return the value of every action in every state, if ``policy`` acts afterwards.

        Raises:
            RLTransformerError: The values do not settle, which happens if the policy would go round in circles.
        """
        share = (self.pair_counts / (self.pair_counts + _PRIOR)).reshape(policy.shape)
        rewards = share * self._pair_rewards.reshape(policy.shape) + (1 - share) * self._state_rewards[:, None]
        values = np.zeros(self._num_states)
        for _ in range(_MAX_SWEEPS):
            by_pair = (self._by_pair @ values).reshape(policy.shape)
            by_action = rewards + share * by_pair + (1 - share) * (self._by_state @ values)[:, None]
            after = (policy * by_action).sum(1)
            if np.abs(after - values).max() <= _TOLERANCE * max(1.0, float(np.abs(after).max())):
                return by_action
            values = after
        raise RLTransformerError(
            "the values of this policy do not settle", where="critic", fix="judge on data whose episodes end"
        )

    def behavior(self) -> Float64[np.ndarray, "S A"]:
        """Return the share of each action in each state, of which every one has a small pseudo-count."""
        counts = self.pair_counts.reshape(self._num_states, self._num_actions)
        overall = (counts.sum(0) + 1 / self._num_actions) / (counts.sum() + 1)
        return (counts + overall) / (counts.sum(1, keepdims=True) + 1)

    def visits(self, policy: Float64[np.ndarray, "S A"]) -> Float64[np.ndarray, "S"]:
        """Return the expected visits of each state in an episode of ``policy``."""
        share = (self.pair_counts / (self.pair_counts + _PRIOR)).reshape(policy.shape)
        visits = self._start.copy()
        entering = self._start
        for _ in range(_MAX_SWEEPS):
            by_pair = entering[:, None] * policy
            entering = self._by_pair.T @ (share * by_pair).ravel() + self._by_state.T @ ((1 - share) * by_pair).sum(1)
            visits += entering
            if entering.sum() <= _TOLERANCE:
                return visits
        raise RLTransformerError(
            "the policy would never end an episode", where="critic", fix="judge on data whose episodes end"
        )


def _mean_matrix(
    sources: Int[np.ndarray, "N"],
    following: Int[np.ndarray, "N"],
    goes_on: Bool[np.ndarray, "N"],
    counts: Int[np.ndarray, "_"],
    num_states: int,
) -> sparse.csr_matrix:
    """Return the shares with which each source is followed by each state; an episode's last step by none."""
    shares = 1.0 / counts[sources[goes_on]]
    at = (sources[goes_on], following[goes_on])
    return sparse.csr_matrix((shares, at), shape=(len(counts), num_states))


class CrossFittedTables:
    """Models of a log for steps that each was not fitted on: an episode never judges itself.

    Args:
        log: The steps.
        folds: Number of the fold of every step; steps of one episode, and of one entity, share it.
    """

    def __init__(self, log: TabularLog, folds: Int[np.ndarray, "N"]) -> None:
        self._log = log
        self._folds = folds
        self._models = {int(fold): TabularModel(log.select(folds != fold)) for fold in np.unique(folds)}

    def behavior(self) -> Float64[np.ndarray, "N A"]:
        """Return the estimated probability of each action at every step."""
        probabilities = np.zeros((len(self._folds), self._log.num_actions))
        for fold, model in self._models.items():
            rows = self._folds == fold
            probabilities[rows] = model.behavior()[self._log.states[rows]]
        return probabilities

    def action_values(self, policy: Float64[np.ndarray, "S A"]) -> Float64[np.ndarray, "N A"]:
        """Return the value of each action at every step, if ``policy`` acts afterwards."""
        values = np.zeros((len(self._folds), self._log.num_actions))
        for fold, model in self._models.items():
            rows = self._folds == fold
            values[rows] = model.action_values(policy)[self._log.states[rows]]
        return values

    def state_ratios(self, policy: Float64[np.ndarray, "S A"]) -> Float64[np.ndarray, "N"]:
        """Return at every step how much more often ``policy`` visits this state than the behavior does.

        It is 0 in states that the other folds do not hold.
        """
        ratios = np.zeros(len(self._folds))
        for fold, model in self._models.items():
            rows = self._folds == fold
            often = np.where(model.behavior_visits > 0, model.behavior_visits, np.inf)
            ratios[rows] = (model.visits(policy) / often)[self._log.states[rows]]
        return ratios
