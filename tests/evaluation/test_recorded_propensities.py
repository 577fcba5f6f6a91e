"""Claims about the probability that collected data holds of each action."""

import numpy as np
import pytest

from rl_transformer import TrajectoryDataset
from rl_transformer.evaluation.collection import record_episodes
from tests.environments.foreign import MaskedEnv, MaskedPartsEnv
from tests.toys import DialsEnv, PointEnv, dials_data, point_data, untrained_policy

SAMPLED = {"policy": {"action_selection": "sample"}}


def recorded(environment, **options):
    return TrajectoryDataset.in_memory(*record_episodes(environment, "recorded", 6, seed=3, **options))


@pytest.mark.parametrize("environment", [DialsEnv(), MaskedEnv(), MaskedPartsEnv("joined")])
def test_random_actions_are_drawn_evenly_among_the_legal_ones(environment):
    data = recorded(environment)
    space = data.spec.action_space
    sizes = [space.n] if space.kind == "discrete" else list(space.nvec)
    expected = []
    for step in range(data.num_steps):
        mask = np.ones(sum(sizes), bool) if data.action_masks is None else np.asarray(data.action_masks[step])
        chances = [1 / part.sum() for part in np.split(mask, np.cumsum(sizes)[:-1])]
        expected.append(np.prod(chances))
    np.testing.assert_allclose(np.ravel(data.columns["propensity"]), expected)


@pytest.mark.parametrize(("environment", "start"), [(DialsEnv, [1, 0]), (MaskedEnv, 0)])
def test_the_probabilities_of_a_policy_that_samples_are_those_that_a_session_tells(environment, start):
    policy = untrained_policy(dials_data(20) if environment is DialsEnv else recorded(MaskedEnv()), **SAMPLED)
    data = recorded(environment(), policy=policy, target=5.0)
    column = np.ravel(data.columns["propensity"])
    assert 0 < column.min() < column.max() < 1
    for episode in range(data.num_trajectories):
        rows = slice(*data.offsets[episode : episode + 2])
        session = policy.session(5.0, seed=3 + episode)
        masks = None if data.action_masks is None else data.action_masks[rows]
        for step, observation in enumerate(data.observations[rows]):
            action, info = session.act(observation, None if masks is None else masks[step], return_info=True)
            assert (action - np.array(start) == data.actions[rows][step]).all()
            assert info["propensity"] == pytest.approx(column[rows][step])
            session.observe(float(data.rewards[rows][step]))


def test_a_greedy_policy_a_behavior_and_vectors_have_none():
    greedy = untrained_policy(dials_data(20))
    assert "propensity" not in recorded(DialsEnv(), policy=greedy, target=5.0).columns
    turn = dials_data(1).actions[0]
    assert "propensity" not in recorded(DialsEnv(), behavior=lambda observation, random: turn).columns
    assert "propensity" not in recorded(PointEnv()).columns
    sampled = untrained_policy(point_data(), model={"action_head": "gaussian"}, **SAMPLED)
    assert "propensity" not in recorded(PointEnv(), policy=sampled, target=1.0).columns
