"""Claims about `rlt judge` where actions are vectors: densities in place of probabilities, and no word without them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rl_transformer.critics.features import step_features
from rl_transformer.critics.networks import FitOptions
from rl_transformer.critics.vectors import fit_gaussian_behavior, fit_vector_values
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline.action_kinds import DENSITY, LARGEST_CALIBRATION_ERROR, WEIGHTS, Candidate
from rl_transformer.evaluation.offline.estimators import FITTED_Q
from rl_transformer.evaluation.offline.judge import judge_candidate
from rl_transformer.evaluation.offline.logged_steps import last_steps
from rl_transformer.evaluation.offline.page import as_html, as_text
from rl_transformer.evaluation.offline.policy_actions import action_draws
from rl_transformer.models.heads.gaussian import GaussianHead
from rl_transformer.policy import Policy
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space
from tests.policy.kinds import box_int_data
from tests.toys import untrained_policy

QUICK = FitOptions(hidden_size=16, behavior_updates=40, critic_updates=40)
STEPS = 3
SPREAD = 0.3
BEST = 0.3
SAMPLING = {"model": {"action_head": "gaussian"}, "policy": {"action_selection": "sample"}}


def aims(num_episodes=300, draw=None, propensity=False, scale=1):
    """Episodes that earn 1 less the square distance of each action from 0.3; the behavior aims at 0 with spread 0.3."""
    random = np.random.default_rng(0)
    draw = draw or (lambda: random.normal(0, SPREAD, (STEPS, 1)))
    episodes = []
    for _ in range(num_episodes):
        actions = np.clip(draw(), -1, 1)
        density = np.exp(-0.5 * (actions[:, 0] / SPREAD) ** 2) / (SPREAD * np.sqrt(2 * np.pi))
        extra = {"propensity": density} if propensity else {}
        episodes.append(
            {
                "observations": random.normal(size=(STEPS, 2)),
                "actions": (scale * actions).astype(np.float32),
                "rewards": 1 - (actions[:, 0] - BEST) ** 2,
                "terminated": True,
                **extra,
            }
        )
    return TrajectoryDataset.from_episodes(episodes, action_space=Space.box((1,), -scale, scale))


class Aims(GaussianHead):
    """Draws actions around tanh(0.151), which is 0.15, with a spread of about 0.28."""

    def forward(self, hidden):
        parameters = torch.tensor([0.151, 0.0658])
        return parameters.expand(*hidden.shape[:-1], 2)


def aiming(data):
    policy = untrained_policy(data, **SAMPLING)
    policy.model.predict_action = Aims(policy.spec.model)
    return policy


def expected_reward():
    """The mean reward of `Aims` by its 100,000 quantiles."""
    uniforms = (torch.arange(100_000, dtype=torch.float64)[:, None] + 0.5) / 100_000
    actions = Aims.sample(Aims, torch.tensor([0.151, 0.0658]).expand(100_000, 2), uniforms)
    return float((1 - (actions.double() - BEST).square()).mean())


def folds_of(data):
    return np.repeat(np.arange(len(data)) % 2, data.lengths)


def test_a_policy_that_aims_better_is_called_better_and_by_how_much():
    data = aims(600, propensity=True)
    options = FitOptions(hidden_size=16, behavior_updates=40, critic_updates=600, learning_rate=3e-3)
    result = judge_candidate(Candidate(aiming(data)), data, options=options)
    assert result["verdict"] == "better", as_text(result)
    gain = STEPS * expected_reward() - float(np.add.reduceat(data.rewards, data.offsets[:-1]).mean())
    low, high = result["difference"]["interval"]
    assert low - 0.05 < gain < high + 0.05
    assert result["support"]["unsupported"] < 0.1


def test_a_policy_with_one_action_per_step_gets_no_word_and_only_fitted_q_evaluation():
    data = aims(60)
    policy = aiming(data)
    spec = replace(policy.spec, action_selection="greedy")
    greedy = Policy(spec, policy.model, policy.normalizer, policy.return_model)
    result = judge_candidate(Candidate(greedy), data, options=QUICK)
    assert result["verdict"] == "not established"
    assert list(result["estimates"]) == [FITTED_Q]
    assert result["difference"]["value"] is None
    assert any(reason.startswith(WEIGHTS) for reason in result["reasons"])
    assert "gaussian" in " ".join(result["what_would_settle"]["advice"])
    assert "fitted Q evaluation" in as_html({"run": "run", "data": "log", **result})


def test_a_density_is_that_of_the_session_and_per_unit_of_the_data():
    data = aims(3)
    wide = aims(3, scale=2)
    uniforms = np.random.default_rng(1).random((data.num_steps, 4, 1))
    _, narrow = action_draws(aiming(data), data, None, None, uniforms)
    draws, densities = action_draws(aiming(wide), wide, None, None, uniforms)
    np.testing.assert_allclose(densities, narrow - np.log(2), atol=1e-4)
    head = Aims(aiming(data).spec.model)
    direct = head.log_densities(head(torch.zeros(data.num_steps, 16)), torch.from_numpy(data.actions)).sum(1)
    np.testing.assert_allclose(narrow, direct.detach(), atol=1e-4)
    assert abs(draws.mean() - 2 * 0.15) < 0.4


def test_the_estimated_density_of_a_gaussian_behavior_is_right_and_that_of_another_is_found_out():
    data = aims(400)
    options = FitOptions(hidden_size=16, behavior_updates=200, learning_rate=3e-3, seed=1)
    behavior = fit_gaussian_behavior(step_features(data, 1), folds_of(data), options)
    units = np.asarray(step_features(data, 1).actions, np.float64)
    assert np.abs(behavior.means).mean() < 0.2
    assert behavior.spreads.mean() == pytest.approx(1, abs=0.1)
    assert behavior.calibration(units)["expected_calibration_error"] < LARGEST_CALIBRATION_ERROR
    random = np.random.default_rng(3)
    two = aims(200, lambda: random.choice([-0.6, 0.6], (STEPS, 1)) + random.normal(0, 0.02, (STEPS, 1)))
    result = judge_candidate(Candidate(aiming(two)), two, options=QUICK)
    assert any(gate["name"] == DENSITY and gate["state"] == "failed" for gate in result["gates"])


def test_actions_at_their_bounds_have_no_density():
    random = np.random.default_rng(4)
    data = aims(60, lambda: random.normal(0, 1, (STEPS, 1)))
    result = judge_candidate(Candidate(aiming(data)), data, options=QUICK)
    assert any("at a bound" in reason for reason in result["reasons"])


def test_the_critic_of_vectors_finds_values_that_are_known():
    data = aims(300)
    features = step_features(data, 1)
    best = np.full((data.num_steps, 1, 1), BEST)
    units = (best - data.actions.mean()) / data.actions.std()
    options = FitOptions(hidden_size=32, critic_updates=600, learning_rate=3e-3)
    rewards = np.asarray(data.rewards, np.float64)
    of_actions, of_states = fit_vector_values(
        features, folds_of(data), units, rewards, last_steps(data.offsets), options
    )
    first = data.offsets[:-1]
    assert of_states[first].mean() == pytest.approx(STEPS, abs=0.25)  # every step earns 1
    assert (of_actions[first] - rewards[first]).mean() == pytest.approx(STEPS - 1, abs=0.25)


def test_a_recorded_density_must_be_one():
    data = aims(30, propensity=True)
    data.columns["propensity"][2] = np.inf
    with pytest.raises(RLTransformerError, match="finite density"):
        judge_candidate(Candidate(aiming(data)), data, options=QUICK)


def test_vectors_of_whole_numbers_are_refused_by_name(monkeypatch):
    monkeypatch.setattr("rl_transformer.evaluation.offline.judge._FEWEST_EPISODES", 2)
    data = box_int_data()
    with pytest.raises(RLTransformerError, match="whole numbers"):
        judge_candidate(Candidate(untrained_policy(data, **SAMPLING)), data, options=QUICK)
