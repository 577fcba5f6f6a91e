"""Small decision processes whose answers are known exactly."""

import numpy as np

from rl_transformer.critics.tabular import CrossFittedTables
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.reproductions.finite_mdp import FiniteMDP

# Three states, two actions; an episode ends with probability 0.3 or more at every step.
TRANSITIONS = np.array(
    [
        [[0.1, 0.5, 0.1], [0.2, 0.0, 0.4]],
        [[0.3, 0.1, 0.2], [0.0, 0.3, 0.4]],
        [[0.2, 0.2, 0.1], [0.5, 0.1, 0.0]],
    ]
)
REWARDS = np.array([[0.0, 1.0], [0.5, -0.5], [2.0, 0.2]])
TOY = FiniteMDP(TRANSITIONS, REWARDS, np.array([0.6, 0.3, 0.1]))
BEHAVIOR = np.array([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6]])
POLICY = np.array([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
WRONG_VALUES = np.array([[0.3, -1.0], [2.0, 0.4], [0.1, 0.9]])


def seen_by(policy, log, offsets, behavior, values=None, ratios=None):
    """The log as a policy sees it, with the behavior's true propensities."""
    rows = (log.states, log.actions)
    with np.errstate(divide="ignore"):
        log_policy = np.log(policy[rows])
    log_behavior = np.log(behavior[rows])
    state_values = None if values is None else (policy * values).sum(1)[log.states]
    marginal = None if ratios is None else ratios * np.exp(log_policy - log_behavior)
    action_values = None if values is None else values[rows]
    return LoggedSteps(offsets, log.rewards, log_policy, log_behavior, action_values, state_values, marginal)


def fitted(policy, log, offsets, behavior):
    """The same with tables that are fitted to the log itself, cross-fitted over two halves of the episodes."""
    episodes = len(offsets) - 1
    tables = CrossFittedTables(log, np.repeat(np.arange(episodes) % 2, np.diff(offsets)))
    values = tables.action_values(policy)
    steps = seen_by(policy, log, offsets, behavior, ratios=tables.state_ratios(policy))
    rows = np.arange(len(log.states))
    return LoggedSteps(
        offsets,
        log.rewards,
        steps.log_policy,
        steps.log_behavior,
        values[rows, log.actions],
        (policy[log.states] * values).sum(1),
        steps.marginal_ratios,
    )
