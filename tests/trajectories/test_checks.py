"""Claims about findings that need more than one episode: each is about all of them, in any order."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium


def episode(*, observations=0.0, actions=0.5, rewards=1.0, steps=4):
    """An episode whose arrays are a number plus the step's, so that no feature is constant."""
    steps = np.arange(steps)
    return {
        "observations": np.stack([observations + steps, -steps], axis=1).astype(np.float64),
        "actions": (actions * np.cos(steps))[:, None].astype(np.float32),
        "rewards": rewards * np.ones(len(steps)),
        "terminated": True,
    }


def kinds(*episodes):
    space = gym.spaces.Box(-1, 1, (1,), np.float32)
    observations = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    data = TrajectoryDataset.from_episodes(episodes, observation_space=observations, action_space=space)
    return {finding.kind for finding in data.findings}


@pytest.mark.parametrize("change", [{"observations": 1.0}, {"actions": 0.4}, {"rewards": 2.0}], ids=str)
def test_episodes_that_differ_in_one_array_are_no_copies(change):
    assert "duplicate episode" in kinds(episode(), episode())
    assert "duplicate episode" not in kinds(episode(), episode(**change))


@pytest.mark.parametrize("order", [1, -1])
def test_the_range_of_actions_is_that_of_all_episodes(order):
    tiny = episode(actions=0.001)
    assert "tiny actions" in kinds(tiny, episode(actions=0.002))
    assert "tiny actions" not in kinds(*[tiny, episode(actions=0.9)][::order])


@pytest.mark.parametrize("order", [1, -1])
def test_precision_is_looked_at_in_all_episodes(order):
    """A clock that begins at 0 in one recording and at a billion seconds in another one, which hides its differences."""
    fine = episode(observations=1e9)
    assert "precision" in kinds(fine, episode(observations=1e9 + 50))
    assert "precision" in kinds(*[fine, episode(observations=1e9 + 1)][::order])
    assert "precision" not in kinds(*[fine, episode(observations=0.0)][::order])  # its range is larger than its error


@pytest.mark.parametrize("order", [1, -1])
def test_data_is_without_rewards_only_if_no_episode_has_any(order):
    assert "no rewards" in kinds(episode(rewards=0.0), episode(rewards=0.0, actions=0.1))
    assert "no rewards" not in kinds(*[episode(rewards=0.0), episode()][::order])


def test_a_finding_counts_the_defects_of_all_episodes_and_keeps_the_first_places():
    space = space_from_gymnasium(gym.spaces.Box(-1, 1, (1,), np.float32), where="action_space")
    checker = Checker(DataSpec(space, space, "", "test"))
    for number in range(30):
        checker.add_finding(
            "error", "not finite", "rewards", "is NaN", "repair", positions=[{"episode": number}], count=2
        )
    (finding,) = checker.findings
    assert finding.count == 60
    assert [position["episode"] for position in finding.positions] == list(range(20))
