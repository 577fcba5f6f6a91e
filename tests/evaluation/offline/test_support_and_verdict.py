"""Claims about weights, support and the rule that makes a word of them."""

from dataclasses import replace

import numpy as np
import pytest

from rl_transformer.evaluation.offline.estimators import (
    FITTED_Q,
    WEIGHTED_DOUBLY_ROBUST,
    ValueEstimate,
    estimate_values,
)
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.intervals import disagreement, effective_sample_size, half_width, pareto_k
from rl_transformer.evaluation.offline.support import FLOOR, Support, measure_support, rare_actions
from rl_transformer.evaluation.offline.verdict import BETTER, NOT_ESTABLISHED, WORSE, Side, decide
from tests.evaluation.offline.toy_problems import BEHAVIOR, POLICY, TOY, fitted


def test_equal_weights_count_fully_and_a_single_one_as_one_episode():
    assert effective_sample_size(np.full(50, 3.0)) == pytest.approx(50)
    assert effective_sample_size(np.array([0.0, 0.0, 1e200])) == pytest.approx(1)
    assert effective_sample_size(np.zeros(5)) == 0


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    random = np.random.default_rng(0)
    found = [pareto_k(random.random(20_000) ** -shape) for _ in range(10)]
    assert np.mean(found) == pytest.approx(shape, abs=0.12)


def test_weights_without_a_tail_have_no_shape():
    assert pareto_k(np.ones(1000)) is None
    assert pareto_k(np.arange(8.0)) is None


SOLID = Support(
    900.0,
    0.3,
    0.4,
    0.01,
    0.01,
    [{"first": 0, "last": 3, "unsupported": 0.01}],
    [{"low": 0.0, "high": 1.0, "unsupported": 0.01}],
)


def side(value, second, support=SOLID, spread=1.0, episodes=1000):
    influences = np.where(np.arange(episodes) % 2, spread, -spread)
    return Side(
        {
            WEIGHTED_DOUBLY_ROBUST: ValueEstimate(WEIGHTED_DOUBLY_ROBUST, value, influences),
            FITTED_Q: ValueEstimate(FITTED_Q, second, influences),
        },
        support,
    )


BASE = Side({"behavior": ValueEstimate("behavior", 1.0, np.zeros(1000))}, None)


def word(policy, **options):
    return decide(policy, BASE, gates=options.pop("gates", []), num_episodes=1000, **options)


def test_a_clear_difference_with_support_is_called_by_its_name():
    assert word(side(1.2, 1.15)).word == BETTER
    assert word(side(0.8, 0.85)).word == WORSE


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        (side(1.03, 1.03), {}, "interval"),
        (side(1.2, 0.99), {}, "fitted Q"),
        (side(1.2, 1.2), {"margin": 0.15}, "margin"),
        (side(1.2, 1.2), {"gates": [Gate("held-out data", False, "trained on them", "hold some out")]}, "held-out"),
        (side(1.2, 1.2, Support(99.0, 0.3, 0.3, 0.1, 0.0, [], [])), {}, "99 episodes"),
        (side(1.2, 1.2, Support(900.0, 0.71, 0.3, 0.1, 0.0, [], [])), {}, "Pareto"),
        (
            side(1.2, 1.2, Support(900.0, None, None, 0.1, 0.11, SOLID.by_timestep, SOLID.by_return)),
            {},
            "rare or absent in the log",
        ),
        (side(1.2, 1.2, replace(SOLID, mean_weight=(1.2, 0.05))), {}, "propensities are wrong"),
        (side(1.2, 1.2, replace(SOLID, mean_weight=(0.8, 0.05))), {}, "propensities are wrong"),
    ],
)
def test_each_condition_alone_withholds_the_word_and_says_why(policy, options, reason):
    verdict = word(policy, **options)
    assert verdict.word == NOT_ESTABLISHED
    assert any(reason in each for each in verdict.reasons)
    assert verdict.what_would_settle


def test_unsupported_actions_are_located_only_where_places_differ():
    def reason_and_advice(timesteps, returns):
        verdict = word(side(1.2, 1.2, Support(900.0, None, None, 0.1, 0.11, timesteps, returns)))
        return next(reason for reason in verdict.reasons if "rare" in reason), verdict.what_would_settle[0]

    timesteps = [{"first": 0, "last": 4, "unsupported": 0.05}, {"first": 5, "last": 5, "unsupported": 0.3}]
    returns = [{"low": 0.0, "high": 0.0, "unsupported": 0.2}, {"low": 0.5, "high": 1.0, "unsupported": 0.1}]
    reason, advice = reason_and_advice(timesteps, returns)
    assert reason.endswith("; the share is highest in timestep 5 (30.0%) and in episodes with return 0 (20.0%)")
    assert advice.endswith("those actions in timestep 5")
    reason, advice = reason_and_advice(timesteps[:1], returns[:1])  # one-step episodes, such as those of a bandit
    assert reason.endswith("(behavior probability below 0.01)")
    assert advice.endswith("also tries those actions")


def test_a_mean_weight_that_chance_explains_withholds_nothing():
    for mean_weight in ((1.2, 0.07), (1.04, 0.001), (0.8, 0.07)):
        assert word(side(1.2, 1.2, replace(SOLID, mean_weight=mean_weight))).word == BETTER
    # Where few episodes count, the heavy ones that are missing explain a small mean, and nothing explains a large one.
    few = replace(SOLID, effective_sample_size=20.0)
    assert not any("wrong" in reason for reason in word(side(1.2, 1.2, replace(few, mean_weight=(0.1, 0.05)))).reasons)
    assert any("wrong" in reason for reason in word(side(1.2, 1.2, replace(few, mean_weight=(9.0, 0.5)))).reasons)


def test_weights_average_1_with_right_propensities_and_not_with_wrong_ones():
    log, offsets = TOY.sample(BEHAVIOR, 4000, np.random.default_rng(2))
    for behavior, is_right in ((BEHAVIOR, True), (BEHAVIOR * 0.7, False)):
        steps = fitted(POLICY, log, offsets, behavior)
        deciding = estimate_values(steps)[WEIGHTED_DOUBLY_ROBUST]
        mean, error = measure_support(steps, deciding, np.zeros(len(log.states))).mean_weight
        assert (abs(mean - 1) < 3 * error) is is_right


def test_a_check_that_was_not_run_withholds_nothing():
    assert word(side(1.2, 1.2), gates=[Gate("leakage", None, "not run")]).word == BETTER


def test_the_number_of_episodes_that_would_settle_it_does():
    verdict = word(side(1.05, 1.05))
    assert verdict.word == NOT_ESTABLISHED
    assert verdict.episodes_needed > 1000
    more = side(1.05, 1.05, episodes=verdict.episodes_needed + verdict.episodes_needed % 2 + 2)
    base = Side({"behavior": ValueEstimate("behavior", 1.0, np.zeros(len(more.deciding.influences)))}, None)
    assert decide(more, base, gates=[], num_episodes=1).word == BETTER


def test_support_says_where_the_policy_does_what_is_hardly_in_the_log():
    log, offsets = TOY.sample(BEHAVIOR, 300, np.random.default_rng(1))
    steps = fitted(POLICY, log, offsets, BEHAVIOR)
    behavior = BEHAVIOR[log.states].copy()
    first = steps.timesteps == 0
    behavior[first] = [1 - FLOOR / 2, FLOOR / 2]  # at first steps the second action is hardly taken
    deciding = estimate_values(steps)[WEIGHTED_DOUBLY_ROBUST]
    support = measure_support(steps, deciding, rare_actions(POLICY[log.states], behavior))
    expected = POLICY[log.states[first], 1].sum() / len(log.states)
    assert support.unsupported == pytest.approx(expected)
    assert max(support.by_timestep, key=lambda place: place["unsupported"])["first"] == 0
    assert sum(place["unsupported"] > 0 for place in support.by_timestep) == 1


def test_halves_that_agree_widen_nothing_and_others_by_their_distance_in_standard_errors():
    random = np.random.default_rng(0)
    folds = random.permutation(400) % 2
    noise = random.normal(size=400)
    for shift in (0.0, 0.3, 1.0):
        values = noise + shift * folds
        first, second = values[folds == 0], values[folds == 1]
        spread = np.concatenate([first - first.mean(), second - second.mean()]).std(ddof=1)
        apart = abs(first.mean() - second.mean()) / (spread * np.sqrt(1 / len(first) + 1 / len(second)))
        influences = values - values.mean()
        assert disagreement(influences, None, folds) == pytest.approx(max(1, apart))
        plain = half_width(influences, None, 0.9)
        assert half_width(influences, None, 0.9, folds) == pytest.approx(plain * max(1, apart))
    assert apart > 3
    # Three folds, one of which is apart.
    thirds = np.arange(600) % 3
    values = random.normal(size=600) + (thirds == 2)
    means = np.array([values[thirds == fold].mean() for fold in range(3)])
    spread = (values - means[thirds]).std(ddof=1)
    chi_square = (200 * (means - values.mean()) ** 2).sum() / spread**2
    assert disagreement(values - values.mean(), None, thirds) == pytest.approx(np.sqrt(chi_square / 2))
    # A single reward in one of the halves is no disagreement, though the other half has no spread at all.
    rare = np.zeros(400)
    rare[np.flatnonzero(folds)[0]] = 1
    assert disagreement(rare - rare.mean(), None, folds) == pytest.approx(1, abs=0.01)
    # Without networks, with one fold, or where nothing varies within folds, there is nothing to widen by.
    assert disagreement(influences, None, None) == 1
    assert disagreement(influences, None, np.zeros(400, int)) == 1
    assert disagreement(np.where(folds, 1.0, -1.0), None, folds) == 1


def test_halves_are_compared_over_entities_whose_episodes_vary_together():
    random = np.random.default_rng(1)
    entities = np.repeat(np.arange(40), 25)
    folds = entities % 2
    found = []
    for _ in range(100):
        values = random.normal(size=40)[entities] + 0.1 * random.normal(size=1000)
        influences = values - values.mean()
        found.append([disagreement(influences, entities, folds), disagreement(influences, None, folds)])
    over_entities, over_episodes = np.mean(found, axis=0)
    assert over_entities < 1.4
    assert over_episodes > 3


def test_errors_of_the_networks_of_each_half_are_in_the_interval():
    random = np.random.default_rng(2)
    episodes, hits = 200, {"plain": 0, "widened": 0}
    folds = np.arange(episodes) % 2
    for _ in range(2000):
        # Each half errs by as much as chance alone moves its estimate.
        values = random.normal(size=episodes) + random.normal(size=2)[folds] / np.sqrt(episodes / 2)
        value = values.mean()
        hits["plain"] += abs(value) <= half_width(values - value, None, 0.9)
        hits["widened"] += abs(value) <= half_width(values - value, None, 0.9, folds)
    assert hits["plain"] / 2000 < 0.78
    assert hits["widened"] / 2000 > 0.83


def test_the_word_needs_more_where_the_halves_disagree():
    folds = np.arange(1000) % 2
    agree = side(0.2, 0.2)
    apart = side(0.2, 0.2)
    for each, pattern in (
        (agree, np.arange(1000) // 2 % 2),
        (apart, np.where(np.arange(1000) % 10 < 9, folds, 1 - folds)),
    ):
        influences = np.where(pattern, 1.0, -1.0)
        for name, estimate in each.estimates.items():
            each.estimates[name] = replace(estimate, influences=influences - influences.mean(), folds=folds)
    other = side(0.0, 0.0)
    for name, estimate in other.estimates.items():
        other.estimates[name] = replace(estimate, influences=np.zeros(1000))
    first = decide(agree, other, gates=[], num_episodes=1000)
    second = decide(apart, other, gates=[], num_episodes=1000)
    assert first.word == BETTER
    assert first.widened_by == 1
    assert second.word == NOT_ESTABLISHED
    assert second.widened_by > 10
    assert second.to_dict()["difference"]["widened_by"] == second.widened_by
