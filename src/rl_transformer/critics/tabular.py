"""Critic, behavior and state frequencies by counting, for discrete states and actions.

Shapes: N steps, S states, A actions, E episodes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, LinAlgWarning, lu_factor, lu_solve

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Bool, Float64, Int

_PRIOR = 1.0  # pseudo-steps of what is usual in the state per action, so that a rare action's value is not one accident


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
    """Mean rewards and transitions of a log, shrunk towards what is usual in the state where an action is rare.

    Evaluating a policy in it is fitted Q evaluation with one parameter per state and action.
    """

    def __init__(self, log: TabularLog) -> None:
        self._num_states = log.num_states
        self._num_actions = log.num_actions
        pairs = log.states * log.num_actions + log.actions
        # The row after an episode's last step belongs to another episode, and is left out.
        following = np.append(log.states[1:], 0)
        goes_on = ~log.is_last
        self.state_counts = np.bincount(log.states, minlength=log.num_states)
        self.pair_counts = np.bincount(pairs, minlength=log.num_states * log.num_actions)
        size = len(self.pair_counts)
        once = 1 / self.pair_counts[pairs]
        self._by_pair = _mean_matrix(pairs, following, goes_on, once, (size, log.num_states))
        self._pair_rewards = np.bincount(pairs, once * log.rewards, size)
        # In what is usual in a state an action counts with the square root of its steps. An action that was never logged is
        # more like the rare ones than like the one that the behavior prefers, which may well be the best; but if rare ones
        # counted as much, a few steps would decide what is usual.
        weights = np.sqrt(once)
        weights /= np.bincount(log.states, weights, log.num_states)[log.states]
        self._by_state = _mean_matrix(log.states, following, goes_on, weights, (log.num_states, log.num_states))
        self._state_rewards = np.bincount(log.states, weights * log.rewards, log.num_states)
        starts = log.states[np.append(True, log.is_last[:-1])]
        self._start = np.bincount(starts, minlength=log.num_states) / len(starts)
        self.num_episodes = len(starts)

    def evaluate(
        self, policy: Float64[np.ndarray, "S A"]
    ) -> tuple[Float64[np.ndarray, "S A"], Float64[np.ndarray, "S"]]:
        """Return the value of every action in every state if ``policy`` acts afterwards, and its visits of each state.

        Raises:
            RLTransformerError: The policy would never end an episode.
        """
        share = (self.pair_counts / (self.pair_counts + _PRIOR)).reshape(policy.shape)
        factors = self._factors(policy, share)
        rewards = share * self._pair_rewards.reshape(policy.shape) + (1 - share) * self._state_rewards[:, None]
        values = lu_solve(factors, (policy * rewards).sum(1))
        by_pair = (self._by_pair @ values).reshape(policy.shape)
        by_action = rewards + share * by_pair + (1 - share) * (self._by_state @ values)[:, None]
        # A state that never occurred here is worth what an average step's state is; 0 would look like the end of the episode.
        by_action[self.state_counts == 0] = float(self.state_counts @ values / self.state_counts.sum())
        return by_action, lu_solve(factors, self._start, trans=1)

    def _factors(
        self, policy: Float64[np.ndarray, "S A"], share: Float64[np.ndarray, "S A"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors of 1 - transitions under ``policy``."""
        # Solved at once instead of by sweeps: the same factors serve values and, transposed, visits.
        own = (share * policy).ravel()
        rows = np.repeat(np.arange(self._num_states), self._num_actions)
        mixing = sparse.csr_matrix((own, (rows, np.arange(len(own)))), shape=(self._num_states, len(own)))
        shrunk = sparse.diags_array(((1 - share) * policy).sum(1)) @ self._by_state
        moves = np.eye(self._num_states) - sparse.csr_matrix(mixing @ self._by_pair + shrunk).toarray()
        with warnings.catch_warnings():
            warnings.simplefilter("error", LinAlgWarning)
            try:
                return lu_factor(moves)
            except (LinAlgWarning, LinAlgError):  # singular: some states are never left
                raise RLTransformerError(
                    "the policy would never end an episode", where="critic", fix="judge on data whose episodes end"
                ) from None

    def behavior(self) -> Float64[np.ndarray, "S A"]:
        """Return the share of each action in each state, of which every one has a small pseudo-count."""
        counts = self.pair_counts.reshape(self._num_states, self._num_actions)
        # Rare actions get the share that they have over all states, which is closer than an equal share for each.
        overall = (counts.sum(0) + 1 / self._num_actions) / (counts.sum() + 1)
        return (counts + overall) / (counts.sum(1, keepdims=True) + 1)


def _mean_matrix(
    sources: Int[np.ndarray, "N"],
    following: Int[np.ndarray, "N"],
    goes_on: Bool[np.ndarray, "N"],
    weights: Float64[np.ndarray, "N"],
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    """Return the shares with which each source is followed by each state; an episode's last step by none.

    Args:
        sources: Number of the state, or pair of state and action, of each step.
        following: State of the next step.
        goes_on: False at the last step of its episode.
        weights: Of the steps; those of a source sum to 1.
        shape: How many sources and states there are.
    """
    return sparse.csr_matrix((weights[goes_on], (sources[goes_on], following[goes_on])), shape=shape)


def visit_ratios(model: TabularModel, visits: Float64[np.ndarray, "S"]) -> Float64[np.ndarray, "S"]:
    """Return how much more often a policy that visits states so often is in each of them than the behavior.

    Visits of policy and behavior are counted with one more, so that rare states have ratios near 1, and those that the model
    does not hold have 1: with 0 an episode that enters one would be charged for entering it and never be paid for what
    follows.
    """
    return (model.num_episodes * visits + 1) / (model.state_counts + 1)


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

    def evaluate(
        self, policy: Float64[np.ndarray, "S A"]
    ) -> tuple[Float64[np.ndarray, "N A"], Float64[np.ndarray, "N"]]:
        """Return the value of each action at every step, and how much more often ``policy`` visits the step's state."""
        values = np.zeros((len(self._folds), self._log.num_actions))
        ratios = np.zeros(len(self._folds))
        for fold, model in self._models.items():
            rows = self._folds == fold
            states = self._log.states[rows]
            by_action, visits = model.evaluate(policy)
            values[rows] = by_action[states]
            ratios[rows] = visit_ratios(model, visits)[states]
        return values, ratios
