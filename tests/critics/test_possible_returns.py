"""Claims about the range of returns: no critic promises more than the data makes possible."""

import numpy as np
import pytest

from rl_transformer.critics.features import step_features
from rl_transformer.critics.networks import FitOptions, fit_action_values
from rl_transformer.critics.possible_returns import possible_returns
from rl_transformer.critics.vectors import fit_vector_values
from rl_transformer.evaluation.offline.logged_steps import last_steps
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space


def test_a_step_may_end_its_episode_or_be_followed_by_as_many_as_the_longest_has():
    is_last = np.array([False, False, True, True])  # episodes of 3 steps and of 1
    earned = possible_returns(np.array([0.5, 2.0, 1.0, 1.0]), is_last)
    assert earned.low.tolist() == [0.5, 0.5, 0.5, 0.5]
    assert earned.high.tolist() == [6.0, 4.0, 2.0, 6.0]
    both = possible_returns(np.array([-1.0, 2.0, 1.0, 1.0]), is_last)
    assert both.low.tolist() == [-3.0, -2.0, -1.0, -3.0]
    lost = possible_returns(np.array([-1.0, -2.0, -1.0, -1.0]), is_last)
    assert lost.high.tolist() == [-1.0, -1.0, -1.0, -1.0]


def clicks(kind):
    """Few sessions with many features, one click in 40 of them: a network learns them by heart, and is far off elsewhere."""
    random = np.random.default_rng(3)
    episodes = []
    for number in range(80):
        actions = random.integers(0, 10, 3) if kind == "discrete" else random.normal(size=(3, 4)).astype(np.float32)
        rewards = np.zeros(3)
        rewards[0] = number % 40 == 0
        observations = random.normal(size=(3, 20))
        episodes.append({"observations": observations, "actions": actions, "rewards": rewards, "terminated": True})
    space = Space.discrete(10) if kind == "discrete" else None
    return TrajectoryDataset.from_episodes(episodes, action_space=space)


@pytest.mark.parametrize("kind", ["discrete", "vectors"])
def test_a_critic_that_knows_little_promises_nothing_impossible(kind):
    data = clicks(kind)
    is_last = last_steps(data.offsets)
    folds = np.repeat(np.arange(80) % 2, 3)
    random = np.random.default_rng(4)
    rewards = np.asarray(data.rewards, np.float64)
    given = (rewards, is_last, FitOptions(hidden_size=64, critic_updates=150))
    features = step_features(data, 1)
    if kind == "discrete":
        greedy = np.eye(10)[random.integers(0, 10, 240)]
        values = fit_action_values(features, folds, greedy, *given)
    else:
        values = fit_vector_values(features, folds, random.normal(size=(240, 2, 4)) * 30, *given)
    possible = possible_returns(rewards, is_last)
    for found in values:
        assert (found >= possible.low).all()
        assert (found <= possible.high + 1e-6).all()
