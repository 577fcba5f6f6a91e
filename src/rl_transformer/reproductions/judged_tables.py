"""Judge a policy that is a table of probabilities, on a log of a finite process: the core of `rlt judge` without networks.

Shapes: S states, A actions, N steps, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rl_transformer.critics.tabular import CrossFittedTables, TabularLog, TabularModel, visit_ratios
from rl_transformer.evaluation.offline.estimators import BEHAVIOR, estimate_values, logged_value
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.support import measure_support, rare_actions
from rl_transformer.evaluation.offline.verdict import Side, Verdict, decide

# More folds leave more episodes to each model; with two, models of 500 episodes were too poor to correct each other.
_FOLDS = 5
_FEWEST_SEEN = 3
_FEWEST_IN_STATE = 25


@dataclass(frozen=True)
class JudgedLog:
    """A log of a finite process, ready to judge any number of policies on it."""

    log: TabularLog
    offsets: np.ndarray
    """(E + 1,)"""
    propensities: np.ndarray | None = None
    """(S, A): the behavior's true probabilities; None: they are counted in the log."""

    @cached_property
    def _tables(self) -> CrossFittedTables:
        # Alternating episodes: they are independent, so that any folds are as good.
        lengths = np.diff(self.offsets)
        return CrossFittedTables(self.log, np.repeat(np.arange(len(lengths)) % _FOLDS, lengths))

    @cached_property
    def behavior(self) -> np.ndarray:
        """Probabilities of the behavior (S, A): the true ones, or shares of the log."""
        if self.propensities is not None:
            return self.propensities
        # Counted in the whole log: without the episode itself, an action that only this episode holds would have
        # probability 0. That counted propensities are better than true ones is in Hanna et al. (2019).
        return self._counts / np.maximum(self._counts.sum(1, keepdims=True), 1)

    @cached_property
    def _counts(self) -> np.ndarray:
        """How often each action was logged in each state (S, A)."""
        pairs = self.log.states * self.log.num_actions + self.log.actions
        counts = np.bincount(pairs, minlength=self.log.num_states * self.log.num_actions)
        return counts.reshape(self.log.num_states, self.log.num_actions)

    @cached_property
    def _whole(self) -> TabularModel:
        return TabularModel(self.log)

    def side(self, policy: np.ndarray) -> tuple[LoggedSteps, Side]:
        """Return the log as a policy (S, A) sees it, and its estimates and support.

        Values are of tables that count the whole log, because a fifth less of it costs more than the episodes' influence on
        their own tables does. But that influence makes residuals too small, so the spread is that of tables which have not
        seen the episode.
        """
        log = self.log
        values, ratios = self._tables.evaluate(policy)
        steps = self._steps(policy, values, ratios)
        by_action, visits = self._whole.evaluate(policy)
        whole = visit_ratios(self._whole, visits)
        from_whole = estimate_values(self._steps(policy, by_action[log.states], whole[log.states]))
        estimates = {
            name: replace(estimate, value=from_whole[name].value) for name, estimate in estimate_values(steps).items()
        }
        deciding = Side(estimates, None).deciding
        # What was hardly ever seen has no support, whatever share of its state's steps it is: its counted share is chance.
        is_seen = (self._counts >= _FEWEST_SEEN) & (self._counts.sum(1, keepdims=True) >= _FEWEST_IN_STATE)
        seen = np.where(is_seen, self.behavior, 0.0)
        missing = rare_actions(policy[log.states], seen[log.states])
        return steps, Side(estimates, measure_support(steps, deciding, missing, ratios))

    def _steps(self, policy: np.ndarray, values: np.ndarray, ratios: np.ndarray) -> LoggedSteps:
        """Return the log as a policy sees it, with a critic (N, A) and ratios of how often it visits each step's state."""
        log = self.log
        rows = (log.states, log.actions)
        with np.errstate(divide="ignore"):
            log_policy = np.log(policy[rows])
        log_behavior = np.log(self.behavior[rows])
        return LoggedSteps(
            self.offsets,
            log.rewards,
            log_policy,
            log_behavior,
            values[np.arange(len(log.states)), log.actions],
            (policy[log.states] * values).sum(1),
            # Frequencies of states times ratios of actions: how much more often the policy is there and acts so.
            ratios * np.exp(log_policy - log_behavior),
        )

    def judge(self, policy: np.ndarray) -> tuple[Verdict, Side]:
        """Return the verdict about a policy against the behavior, and the policy's estimates."""
        steps, side = self.side(policy)
        logged = Side({BEHAVIOR: logged_value(steps)}, None)
        return decide(side, logged, gates=[], num_episodes=steps.num_episodes), side
