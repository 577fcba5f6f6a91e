"""Claims about discrete observations with many values: nothing grows with their square, and rows hold indices."""

import tracemalloc
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import TrajectoryDataset, load_policy, open_trajectories, train
from rl_transformer.config.sections import DataConfig
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.trajectories.open import open_training_data
from rl_transformer.trajectories.spaces import WIDE, Space
from rl_transformer.windows.sampling import WindowSampler
from tests.toys import tiny_config, untrained_policy

WIDE_SPACES = {
    "discrete": gym.spaces.Discrete(WIDE + 5, start=3),
    "multi_discrete": gym.spaces.MultiDiscrete([WIDE + 2, 3], start=[1, 0]),
    "dict": gym.spaces.Dict(
        {
            "at": gym.spaces.Box(-1, 1, (2,), np.float32),
            "item": gym.spaces.Discrete(WIDE + 1),
            "few": gym.spaces.Discrete(3, start=1),
        }
    ),
    "tuple": gym.spaces.Tuple((gym.spaces.Discrete(WIDE + 9), gym.spaces.MultiBinary(3))),
}


def wide_data(space, num_episodes=4, length=9):
    space.seed(0)
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": [space.sample() for _ in range(length + 1)],
            "actions": random.integers(0, 3, length),
            "rewards": np.ones(length),
            "terminated": True,
        }
        for _ in range(num_episodes)
    ]
    return TrajectoryDataset.from_episodes(
        episodes, observation_space=space, action_space=gym.spaces.Discrete(3), source="wide"
    )


def flat_observations(data):
    """Return the flat observations of all episodes, by way of the recorded values."""
    space = data.spec.observation_space
    return np.concatenate([space.flatten(data.trajectory(i).observations) for i in range(len(data))])


@pytest.mark.parametrize("name", WIDE_SPACES)
def test_a_batch_of_a_wide_space_equals_that_of_its_one_hot_vectors(name, tmp_path):
    """Reported as gym#2614."""
    data = wide_data(WIDE_SPACES[name])
    flat = flat_observations(data)
    assert data.observations.shape[1] < 10 < WIDE < flat.shape[1]
    np.testing.assert_allclose(data.statistics.mean, flat.astype(np.float64).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(data.statistics.std, flat.astype(np.float64).std(axis=0), atol=1e-12)
    policy = untrained_policy(data)
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 5, policy.device)
    index = WindowSampler(data.offsets, np.arange(4), seed=0).draw(0, 6)
    batch = gatherer.gather(index, extra=("next_states",))
    expected = policy.normalizer.normalize(torch.from_numpy(flat))
    ends = data.offsets[index.trajectories + 1]
    for window, (row, end) in enumerate(zip(index.rows, ends, strict=True)):
        real = min(5, end - row)
        assert torch.equal(batch.states[window, :real], expected[row : row + real])
        following = min(real, end - row - 1)
        assert torch.equal(batch.next_states[window, :following], expected[row + 1 : row + 1 + following])
    data.save(tmp_path / "store")
    store = open_trajectories(f"rlt:{tmp_path / 'store'}")
    assert store.fingerprint == data.fingerprint
    np.testing.assert_array_equal(flat_observations(store), flat)
    assert Space.from_dict(data.spec.observation_space.to_dict()) == data.spec.observation_space


def test_a_session_sees_what_training_windows_hold():
    data = wide_data(WIDE_SPACES["discrete"])
    policy = untrained_policy(data)
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 5, policy.device)
    logged = data.trajectory(1)
    session = policy.session(9.0)
    for step in range(3):
        session.act(logged.observations[step])
        session.observe(1.0)
    states = session._batch._history.take(np.array([0]), np.arange(3)[None])[0]
    rows = torch.tensor([int(data.offsets[1])])
    assert torch.equal(states[0], gatherer.gather_at(rows, torch.tensor([1])).states[0, :3])


def test_a_policy_of_a_wide_space_is_trained_and_acts(tmp_path):
    data = wide_data(gym.spaces.Discrete(5000))
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    assert policy.spec.model.state_dim == 5000
    assert policy.session(9.0).act(4999) in (0, 1, 2)


def test_memory_grows_with_n_and_not_with_its_square():
    """Reported as gym#2614: 37 GiB for Discrete(100000)."""
    n = 100_000
    tracemalloc.start()
    data = wide_data(gym.spaces.Discrete(n), num_episodes=2, length=50)
    one = data.spec.observation_space.flatten(np.array([n - 1]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * n * 8  # one-hot rows of the 100 steps alone would take half of it, a table of all rows 80 GB
    assert data.observations.nbytes == 100 * 4
    assert one.shape == (1, n)
    assert one[0, -1] == 1
    # A value that was not seen is no defect of wide spaces.
    assert data.findings == []


def test_stores_with_one_hot_vectors_of_a_wide_space_still_open_and_give_the_same_batches():
    data = wide_data(WIDE_SPACES["discrete"])
    dense = TrajectoryDataset(data.spec, {**data.columns, "observations": flat_observations(data)}, data.summary)
    policy = untrained_policy(data)
    index = WindowSampler(data.offsets, np.arange(4), seed=0).draw(0, 6)
    batches = [
        make_gatherer(policy.spec, policy.normalizer, each, 5, policy.device).gather(index) for each in (data, dense)
    ]
    assert torch.equal(batches[0].states, batches[1].states)
    episodes = (dense.trajectory(i) for i in range(len(dense)))
    again = TrajectoryDataset.in_memory(data.spec, episodes)
    np.testing.assert_array_equal(again.observations, data.observations)


def test_parts_of_such_a_store_can_be_chosen():
    data = wide_data(WIDE_SPACES["dict"])
    dense = TrajectoryDataset(data.spec, {**data.columns, "observations": flat_observations(data)}, data.summary)
    dense = replace(dense, summary=replace(data.summary, final_observations=None))
    options = DataConfig(observe=["item", "few"])
    chosen = [open_training_data(options, each) for each in (data, dense)]
    np.testing.assert_array_equal(chosen[0].observations, chosen[1].observations)
    assert chosen[0].spec.observation_space.ignored == ("at",)
