"""Critic, behavior and state frequencies by counting, for discrete states and actions.

Shapes: N steps, S states, A actions, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Float64, Int

_PRIOR = 1.0  # pseudo-steps of the state's mean outcome per action, so that a rare action's value is not one accident


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
            RLTransformerError: The policy would never end an episode.
        """
        share = self._share
        rewards = share * self._pair_rewards.reshape(policy.shape) + (1 - share) * self._state_rewards[:, None]
        values = self._solver(policy).solve((policy * rewards).sum(1))
        by_pair = (self._by_pair @ values).reshape(policy.shape)
        return rewards + share * by_pair + (1 - share) * (self._by_state @ values)[:, None]

    def visits(self, policy: Float64[np.ndarray, "S A"]) -> Float64[np.ndarray, "S"]:
        """Return the expected visits of each state in an episode of ``policy``."""
        return self._solver(policy).solve(self._start, trans="T")

    @property
    def _share(self) -> Float64[np.ndarray, "S A"]:
        """Return how far each action's own outcomes count, against those of its state."""
        return (self.pair_counts / (self.pair_counts + _PRIOR)).reshape(self._num_states, self._num_actions)

    def _solver(self, policy: Float64[np.ndarray, "S A"]) -> SuperLU:
        """Return the factors of 1 - transitions under ``policy``."""
        own = (self._share * policy).ravel()
        rows = np.repeat(np.arange(self._num_states), self._num_actions)
        mixing = sparse.csr_matrix((own, (rows, np.arange(len(own)))), shape=(self._num_states, len(own)))
        shrunk = sparse.diags_array(((1 - self._share) * policy).sum(1)) @ self._by_state
        moves = sparse.csc_matrix(sparse.identity(self._num_states) - mixing @ self._by_pair - shrunk)
        try:
            return splu(moves)
        except RuntimeError:  # singular: some states are never left
            raise RLTransformerError(
                "the policy would never end an episode", where="critic", fix="judge on data whose episodes end"
            ) from None

    def behavior(self) -> Float64[np.ndarray, "S A"]:
        """Return the share of each action in each state, of which every one has a small pseudo-count."""
        counts = self.pair_counts.reshape(self._num_states, self._num_actions)
        overall = (counts.sum(0) + 1 / self._num_actions) / (counts.sum() + 1)
        return (counts + overall) / (counts.sum(1, keepdims=True) + 1)


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
