"""Claims about `act(..., return_info=True)`: the numbers are those of the distribution that acted, and of the data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.policy.support import Support, empirical_quantiles, share_at_least
from rl_transformer.trajectories import Space, TrajectoryDataset
from rl_transformer.windows.selection import select_data
from tests.policy.kinds import ALL_KINDS, Episode, integer_data
from tests.policy.test_policy_folder import rewritten
from tests.toys import point_data, tiny_config, untrained_policy
from tests.training.runs import stored_tensors

FIELDS = {"propensity", "propensity_kind", "action_probabilities", "log_density", "support", "target", "target_share"}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_info_changes_no_action_and_is_the_same_alone_and_in_a_batch(kind):
    episode = Episode(kind)
    plain, informed = episode.session(), episode.session()
    batch = episode.policy.sessions([episode.target] * 3, [3, 4, 5], targets=episode.targets or None)
    for t in range(8):
        action, info = informed.act(episode.observations[t], return_info=True)
        assert np.array_equal(plain.act(episode.observations[t]), action)
        actions, infos = batch.act(range(3), np.stack([episode.observations[t]] * 3), return_info=True)
        assert np.array_equal(actions[0], action)
        assert infos[0] == info
        assert set(json.loads(json.dumps(info, allow_nan=False))) == FIELDS
        if episode.target is not None:
            assert info["target"] == informed.return_to_go
            assert 0 <= info["target_share"] <= 1
        for session in (plain, informed):
            session.observe(episode.rewards[t], **episode.outcomes(t))
        outcomes = {name: [value] * 3 for name, value in episode.outcomes(t).items()}
        batch.observe(range(3), [episode.rewards[t]] * 3, **outcomes)


def test_probabilities_are_those_after_the_mask_and_the_propensity_is_the_chosen_ones():
    for selection in ("greedy", "sample"):
        data = integer_data(np.array([0, 1, 2, 3]), Space.discrete(4))
        policy = untrained_policy(data, policy={"action_selection": selection})
        allowed = np.array([True, False, True, True])
        counts = np.zeros(4)
        for seed in range(400):
            action, info = policy.session(1.0, seed).act(np.ones(2), allowed=allowed, return_info=True)
            counts[action] += 1
            probabilities = np.array(info["action_probabilities"])
            assert probabilities.sum() == pytest.approx(1)
            assert probabilities[1] == 0
            if selection == "greedy":
                assert (info["propensity"], info["propensity_kind"]) == (1.0, "deterministic")
                assert action == probabilities.argmax()
            else:
                assert info["propensity"] == probabilities[action]
                assert info["propensity_kind"] == "probability"
        if selection == "sample":
            assert np.abs(counts / 400 - probabilities).max() < 0.08


def test_the_propensity_of_a_multi_discrete_action_is_the_product_over_its_parts():
    episode = Episode("multi-discrete sample")
    action, info = episode.session().act(episode.observations[0], return_info=True)
    first, second = info["action_probabilities"]
    assert [len(first), len(second)] == [3, 2]
    assert info["propensity"] == pytest.approx(first[action[0] - 1] * second[action[1]])


def test_a_density_is_in_the_environments_units_and_integrates_to_one():
    """By a histogram of draws: an action that ranges over [10, 30] has a density of about 1/20, not of 1/2."""
    random = np.random.default_rng(0)
    episode = {
        "observations": random.normal(size=(9, 2)),
        "actions": random.uniform(10, 30, (8, 1)),
        "rewards": np.ones(8),
        "truncated": True,
    }
    data = TrajectoryDataset.from_episodes([episode] * 8, action_space=Space.box((1,), 10, 30))
    policy = untrained_policy(data, model={"action_head": "gaussian"}, policy={"action_selection": "sample"})
    draws = []
    for seed in range(2000):
        action, info = policy.session(8.0, seed).act(np.zeros(2), return_info=True)
        assert info["propensity_kind"] == "density"
        assert info["propensity"] == pytest.approx(math.exp(info["log_density"]), rel=1e-5)
        draws.append((action.item(), info["propensity"]))
    actions, densities = np.array(sorted(draws)).T
    middle = slice(100, 1900)
    mass = np.trapezoid(densities[middle], actions[middle])
    assert mass == pytest.approx(0.9, abs=0.03)


def test_the_propensity_of_a_rounded_action_is_the_share_of_draws_that_end_there():
    """Two dimensions of whole numbers, with much of the probability on the bounds."""
    episode = Episode("box of integers, gaussian sample")
    propensities = {}
    counts = {}
    for seed in range(3000):
        action, info = episode.session(seed).act(episode.observations[0], return_info=True)
        assert (info["propensity_kind"], info["log_density"]) == ("probability", None)
        propensities[tuple(action)] = info["propensity"]
        counts[tuple(action)] = counts.get(tuple(action), 0) + 1
    assert sum(propensities.values()) == pytest.approx(1, abs=0.03)
    for action, count in counts.items():
        assert count / 3000 == pytest.approx(propensities[action], abs=0.03)


def test_a_sampled_action_that_was_clipped_has_no_known_propensity():
    policy = untrained_policy(
        point_data(), model={"action_head": "gaussian", "action_tanh": False}, policy={"action_selection": "sample"}
    )
    narrow = policy.normalizer
    policy.normalizer = replace(narrow, action_low=narrow.action_low * 0 - 0.01, action_high=narrow.action_high * 0.01)
    _, info = policy.session(8.0).act(np.zeros(2), return_info=True)
    assert (info["propensity"], info["propensity_kind"]) == (None, "unknown")


# Support


def test_support_tells_training_observations_from_far_ones():
    data = point_data()
    policy = untrained_policy(data)
    support = policy.support
    observation = data.observations[::7]
    near = [policy.session(8.0).act(o, return_info=True)[1]["support"] for o in observation[:20]]
    far = policy.session(8.0).act(observation[0] + 50, return_info=True)[1]["support"]
    assert np.mean([s["share"] for s in near]) > 0.3
    assert far["share"] == 0
    assert far["distance"] > 10
    # The distance by its definition.
    states = policy.normalizer.normalize(torch.from_numpy(observation[:5]))
    expected = (states[:, None] - support.observations).norm(dim=2).amin(1)
    for state, distance in zip(near, expected, strict=False):
        assert state["distance"] == pytest.approx(float(distance), abs=1e-6)


def test_the_sample_is_bounded_and_comes_from_the_episodes_to_train_on():
    data = point_data(120)
    policy = untrained_policy(data)
    split = select_data(data, tiny_config("unused", dataset={"validation_fraction": 0.5})).split
    support = Support.from_data(data, split, policy.normalizer, 1024)
    assert 32 <= len(support.observations) <= 1024
    rows = np.concatenate([np.arange(data.offsets[i], data.offsets[i + 1]) for i in split.train])
    allowed = policy.normalizer.normalize(torch.from_numpy(data.observations[rows]))
    assert {tuple(row) for row in support.observations.tolist()} <= {tuple(row) for row in allowed.tolist()}
    assert Episode("stacked images").policy.support is None
    assert untrained_policy(point_data(2)).support is None  # too little to compare with


def test_shares_are_exact_at_the_ends_and_for_repeated_values():
    returns = np.array([0.0] * 60 + [1.0] * 40)
    quantiles = empirical_quantiles(returns)
    assert share_at_least(quantiles, np.array([-1.0, 0.0, 1.0, 1.5])).tolist() == pytest.approx(
        [1, 1, 0.4, 0], abs=0.01
    )
    one = empirical_quantiles(np.array([2.0]))
    assert share_at_least(one, np.array([1.0, 2.0, 3.0])).tolist() == [1, 1, 0]


def test_target_share_is_the_share_of_training_episodes_with_that_return():
    data = point_data(200)
    policy = untrained_policy(data)
    for target in np.quantile(data.episode_returns, [0.1, 0.5, 0.95]):
        _, info = policy.session(float(target)).act(np.zeros(2), return_info=True)
        assert info["target_share"] == pytest.approx((data.episode_returns >= target).mean(), abs=0.02)


# The policy folder


def test_a_policy_keeps_what_its_data_was_like_and_older_ones_say_that_it_is_unknown(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    policy = load_policy(folder)
    assert len(policy.spec.return_quantiles) == 101
    info = policy.session(8.0).act(np.zeros(2), return_info=True)[1]
    assert info["support"] is not None

    def to_format_3(values):
        return {name: v for name, v in values.items() if name not in NEW_IN_4} | {"format_version": 3}

    old = load_policy(
        rewritten(
            folder / "policy",
            tmp_path / "old",
            to_format_3,
            lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("support.")},
        )
    )
    action, unknown = old.session(8.0).act(np.zeros(2), return_info=True)
    assert (unknown["support"], unknown["target_share"]) == (None, None)
    assert action.tolist() == policy.session(8.0).act(np.zeros(2)).tolist()


NEW_IN_4 = {"return_quantiles", "longest_episode"}
BAD_SUPPORT = {
    "another width": lambda t: t | {"support.observations": t["support.observations"][:, :1].contiguous()},
    "NaN": lambda t: t | {"support.observations": t["support.observations"] * float("nan")},
    "no distances": lambda t: {n: v for n, v in t.items() if n != "support.distances"},
    "more": lambda t: t | {"support.more": torch.zeros(1)},
    "too many": lambda t: t | {"support.observations": torch.zeros(5000, 2)},
}


@pytest.mark.parametrize("name", BAD_SUPPORT)
def test_a_malformed_sample_of_observations_is_refused(name, tmp_path):
    untrained_policy(point_data()).save(tmp_path / "p")
    folder = rewritten(tmp_path / "p", tmp_path / "changed", change_tensors=BAD_SUPPORT[name])
    with pytest.raises(RLTransformerError, match="sample of observations is malformed"):
        load_policy(folder)


@pytest.mark.parametrize("quantiles", [[1.0], ["a"] * 101, [float("inf")] * 101, 5])
def test_malformed_return_quantiles_are_refused(quantiles, tmp_path):
    untrained_policy(point_data()).save(tmp_path / "p")

    def damage(values):
        return json.loads(json.dumps(values | {"return_quantiles": quantiles}).replace("Infinity", "1e999"))

    with pytest.raises((RLTransformerError, ValueError), match=r"malformed|not JSON compliant"):
        load_policy(rewritten(tmp_path / "p", tmp_path / "changed", damage))


@pytest.mark.parametrize("size", [0, 40])
def test_a_policy_stores_as_many_observations_as_it_is_told(size, tmp_path):
    """The sample is training data, which not every recipient of a policy may see."""
    run = train(tiny_config(tmp_path / "run", policy={"support_size": size}), dataset=point_data())
    names = [name for name in stored_tensors(run) if name.startswith("support.")]
    if size == 0:
        assert names == []
        assert load_policy(run).session(3.0).act(np.zeros(2), return_info=True)[1]["support"] is None
    else:
        assert len(stored_tensors(run)["support.observations"]) == size


def test_too_few_stored_observations_are_refused(tmp_path):
    with pytest.raises(RLTransformerError, match="31 observations are too few"):
        train(tiny_config(tmp_path / "run", policy={"support_size": 31}), dataset=point_data())
