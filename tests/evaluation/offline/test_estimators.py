"""Claims about estimates of a policy's value: they are what their definitions say, and right where that can be known."""

from itertools import product

import numpy as np
import pytest

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline.estimators import (
    DOUBLY_ROBUST,
    FITTED_Q,
    IMPORTANCE,
    MARGINALIZED_DOUBLY_ROBUST,
    WEIGHTED,
    WEIGHTED_DOUBLY_ROBUST,
    estimate_values,
    logged_value,
)
from rl_transformer.evaluation.offline.intervals import half_width
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from tests.evaluation.offline.toy_problems import BEHAVIOR, POLICY, TOY, WRONG_VALUES, fitted, seen_by


def two_step_episodes():
    """Every episode of exactly two steps of a process without early ends, with its probability under the behavior."""
    moves = TOY.transitions / TOY.transitions.sum(2, keepdims=True)
    episodes = []
    for s, a, t, b in product(range(3), range(2), range(3), range(2)):
        weight = TOY.start[s] * BEHAVIOR[s, a] * moves[s, a, t] * BEHAVIOR[t, b]
        episodes.append(((s, t), (a, b), weight))
    start = TOY.start
    after_one = np.einsum("s,sa,sat->t", start, POLICY, moves)
    truth = start @ (POLICY * TOY.rewards).sum(1) + after_one @ (POLICY * TOY.rewards).sum(1)
    return episodes, float(truth)


def as_steps(episodes, values=None):
    states = np.array([s for each in episodes for s in each[0]])
    actions = np.array([a for each in episodes for a in each[1]])
    return LoggedSteps(
        np.arange(len(episodes) + 1) * 2,
        TOY.rewards[states, actions],
        np.log(POLICY[states, actions]),
        np.log(BEHAVIOR[states, actions]),
        None if values is None else values[states, actions],
        None if values is None else (POLICY * values).sum(1)[states],
    )


@pytest.mark.parametrize("name", [IMPORTANCE, DOUBLY_ROBUST])
def test_the_mean_over_every_possible_episode_is_the_exact_value_whatever_the_critic_says(name):
    episodes, truth = two_step_episodes()
    estimate = estimate_values(as_steps(episodes, WRONG_VALUES))[name]
    by_episode = estimate.value + estimate.influences
    weights = np.array([weight for _, _, weight in episodes])
    assert weights.sum() == pytest.approx(1)
    assert (weights * by_episode).sum() == pytest.approx(truth, abs=1e-12)


def weighted_by_definition(steps, weights):
    """The self-normalized estimate as a sum over padded episodes; ``weights`` count each episode."""
    size = int(steps.lengths.max())
    ratios = np.zeros((steps.num_episodes, size))
    terms = np.zeros_like(ratios)
    for e in range(steps.num_episodes):
        rows = slice(int(steps.offsets[e]), int(steps.offsets[e + 1]))
        length = int(steps.lengths[e])
        ratios[e, :length] = steps.cumulative_ratios[rows]
        ratios[e, length:] = ratios[e, length - 1]
        terms[e, :length] = steps.corrections[rows]
    start = (weights * steps.start_values).sum() / weights.sum()
    shares = weights[:, None] * ratios
    return start + float(((shares * terms).sum(0) / shares.sum(0)).sum())


@pytest.mark.parametrize(("name", "values"), [(WEIGHTED, None), (WEIGHTED_DOUBLY_ROBUST, WRONG_VALUES)])
def test_weights_are_normalized_at_every_timestep_and_influences_are_the_derivatives(name, values):
    log, offsets = TOY.sample(BEHAVIOR, 40, np.random.default_rng(3))
    steps = seen_by(POLICY, log, offsets, BEHAVIOR, values)
    estimate = estimate_values(steps)[name]
    once = np.ones(40)
    assert estimate.value == pytest.approx(weighted_by_definition(steps, once))
    for e in range(0, 40, 7):
        more = once.copy()
        more[e] += 1e-5
        # A little more of an episode moves the mean by its influence, less what the others lose.
        slope = (weighted_by_definition(steps, more) - estimate.value) / 1e-5 * 40
        assert slope == pytest.approx(estimate.influences[e], rel=1e-3, abs=1e-3)


def test_the_behavior_itself_is_estimated_by_the_mean_of_its_returns():
    log, offsets = TOY.sample(BEHAVIOR, 50, np.random.default_rng(0))
    steps = seen_by(BEHAVIOR, log, offsets, BEHAVIOR, WRONG_VALUES)
    mean = logged_value(steps).value
    found = estimate_values(steps)
    assert found[IMPORTANCE].value == pytest.approx(mean)
    assert found[WEIGHTED].value == pytest.approx(mean)
    assert mean == pytest.approx(np.add.reduceat(log.rewards, offsets[:-1]).mean())


def test_doubly_robust_is_unbiased_with_true_propensities_and_a_wrong_critic():
    random = np.random.default_rng(11)
    found = []
    for _ in range(200):
        log, offsets = TOY.sample(BEHAVIOR, 100, random)
        found.append(estimate_values(seen_by(POLICY, log, offsets, BEHAVIOR, WRONG_VALUES))[DOUBLY_ROBUST].value)
    z = (np.mean(found) - TOY.value(POLICY)) / (np.std(found, ddof=1) / np.sqrt(200))
    assert abs(z) < 2


def test_with_the_exact_critic_doubly_robust_varies_less_than_importance_sampling():
    log, offsets = TOY.sample(BEHAVIOR, 400, np.random.default_rng(5))
    found = estimate_values(seen_by(POLICY, log, offsets, BEHAVIOR, TOY.action_values(POLICY)))
    assert found[DOUBLY_ROBUST].influences.std() < 0.9 * found[IMPORTANCE].influences.std()
    assert found[FITTED_Q].value == pytest.approx(TOY.value(POLICY), abs=0.1)


@pytest.mark.parametrize("name", [WEIGHTED_DOUBLY_ROBUST, MARGINALIZED_DOUBLY_ROBUST])
def test_ninety_percent_intervals_hold_the_exact_value_in_about_ninety_percent_of_logs(name):
    random = np.random.default_rng(17)
    truth = TOY.value(POLICY)
    covered = 0
    for _ in range(100):
        log, offsets = TOY.sample(BEHAVIOR, 300, random)
        estimate = estimate_values(fitted(POLICY, log, offsets, BEHAVIOR))[name]
        covered += abs(estimate.value - truth) <= half_width(estimate.influences, None, 0.9)
    assert 82 <= covered <= 98


def test_episodes_of_one_entity_count_as_one_unit():
    values = np.repeat(np.random.default_rng(0).normal(size=30), 4)  # the four episodes of each patient are the same
    values -= values.mean()
    alone = half_width(values[::4], None, 0.9)
    assert half_width(values, np.repeat(np.arange(30), 4), 0.9) == pytest.approx(alone)
    assert half_width(values, None, 0.9) < 0.6 * alone


def test_an_action_that_the_policy_never_takes_ends_the_weight_of_its_episode_only():
    log_policy = np.array([0.0, -np.inf, 0.0, 0.0])
    steps = LoggedSteps(np.array([0, 3, 4]), np.ones(4), log_policy, np.log(np.full(4, 0.5)))
    assert steps.cumulative_ratios.tolist() == pytest.approx([2.0, 0.0, 0.0, 2.0])


def test_a_propensity_of_zero_for_what_was_done_is_refused():
    with pytest.raises(RLTransformerError, match="probability 0"):
        LoggedSteps(np.array([0, 1]), np.ones(1), np.zeros(1), np.array([-np.inf]))
