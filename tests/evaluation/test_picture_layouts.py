"""Claims about cameras: an environment may show its pictures with other axes than the data of the policy."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, evaluate
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.images import with_layout
from tests.toys import untrained_policy

LAYOUTS = {1: [(40, 44), (1, 40, 44), (40, 44, 1)], 3: [(3, 40, 44), (40, 44, 3)], 4: [(4, 40, 44, 1), (40, 44, 4)]}


class Camera(gym.Env):
    """Random pictures in a layout of its own; the reward is the action, so that a return shows what the policy saw."""

    def __init__(self, channels, shape):
        self.shape = shape
        self.channels = channels
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(5)

    def look(self):
        picture = self.np_random.integers(0, 256, (self.channels, 40, 44), dtype=np.uint8)
        channels_last = len(self.shape) == 3 and self.shape[0] == 40
        return (picture.transpose(1, 2, 0) if channels_last else picture).reshape(self.shape)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.look(), {}

    def step(self, action):
        self.steps += 1
        return self.look(), float(action), self.steps == 6, False, {}


def policy_of(shape):
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.integers(0, 256, (6, *shape), dtype=np.uint8),
            "actions": random.integers(0, 5, 6),
            "rewards": random.normal(size=6),
            "terminated": True,
        }
        for _ in range(3)
    ]
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    data = TrajectoryDataset.from_episodes(episodes, observation_space=space, action_space=gym.spaces.Discrete(5))
    return untrained_policy(data, policy={"action_selection": "sample"})


@pytest.mark.parametrize("channels", LAYOUTS)
def test_a_policy_sees_the_same_picture_whatever_the_layout(channels):
    """A policy of replay buffers, (1, 84, 84), was refused at its first step in the game, which shows (84, 84)."""
    for trained in LAYOUTS[channels]:
        policy = policy_of(trained)
        reports = [
            evaluate(policy, lambda shown=shown: Camera(channels, shown), target_returns=[5.0], num_episodes=4, seed=3)
            for shown in LAYOUTS[channels]
        ]
        returns = [report.targets[0].episode_returns for report in reports]
        assert all(other == returns[0] for other in returns)
        assert len(set(returns[0])) > 1


def test_episodes_of_a_policy_are_recorded_in_the_layout_of_its_data():
    policy = policy_of((3, 40, 44))
    spec, episodes = record_episodes(Camera(3, (40, 44, 3)), "Camera", 2, seed=3, policy=policy, target=5.0)
    assert spec.observation_space.shape == (3, 40, 44)
    channels_first = Camera(3, (3, 40, 44))
    for index, episode in enumerate(episodes):
        first, _ = channels_first.reset(seed=3 + index)
        assert np.array_equal(episode.observations[0], first)


def test_other_pictures_are_no_other_layout():
    with pytest.raises(RLTransformerError, match="its observations are"):
        evaluate(policy_of((3, 40, 44)), Camera(3, (44, 40, 3)), target_returns=[5.0], num_episodes=1)
    image = np.zeros((3, 40, 44), np.uint8)
    for shape in ((44, 40, 3), (4, 40, 44), (5,)):
        with pytest.raises(ValueError, match="has no layout"):
            with_layout(image, shape)
