"""Judge a policy that is a table of probabilities, on a log of a finite process: the core of `rlt judge` without networks.

Shapes: S states, A actions, N steps, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rl_transformer.critics.tabular import CrossFittedTables, TabularLog, TabularModel
from rl_transformer.evaluation.offline.estimators import BEHAVIOR, estimate_values, logged_value
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.support import measure_support
from rl_transformer.evaluation.offline.verdict import Side, Verdict, decide


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
        lengths = np.diff(self.offsets)
        return CrossFittedTables(self.log, np.repeat(np.arange(len(lengths)) % 2, lengths))

    @cached_property
    def behavior(self) -> np.ndarray:
        """Probabilities of the behavior (S, A): the true ones, or shares of the log."""
        if self.propensities is not None:
            return self.propensities
        # Counted in the whole log: without the episode itself, an action that only this episode holds would have
        # probability 0. That counted propensities are better than true ones is in Hanna et al. (2019).
        model = TabularModel(self.log)
        counts = model.pair_counts.reshape(self.log.num_states, self.log.num_actions)
        return counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def side(self, policy: np.ndarray) -> tuple[LoggedSteps, Side]:
        """Return the log as a policy (S, A) sees it, and its estimates and support."""
        log = self.log
        rows = (log.states, log.actions)
        values = self._tables.action_values(policy)
        ratios = self._tables.state_ratios(policy)
        with np.errstate(divide="ignore"):
            log_policy = np.log(policy[rows])
        steps = LoggedSteps(
            self.offsets,
            log.rewards,
            log_policy,
            np.log(self.behavior[rows]),
            values[np.arange(len(log.states)), log.actions],
            (policy[log.states] * values).sum(1),
        )
        steps = replace(steps, marginal_ratios=ratios * np.exp(steps.log_policy - steps.log_behavior))
        estimates = estimate_values(steps)
        deciding = Side(estimates, None).deciding
        by_step = (policy[log.states], self.behavior[log.states])
        return steps, Side(estimates, measure_support(steps, deciding, *by_step, ratios))

    def judge(self, policy: np.ndarray) -> tuple[Verdict, Side]:
        """Return the verdict about a policy against the behavior, and the policy's estimates."""
        steps, side = self.side(policy)
        logged = Side({BEHAVIOR: logged_value(steps)}, None)
        return decide(side, logged, gates=[], num_episodes=steps.num_episodes), side
