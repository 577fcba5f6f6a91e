"""Claims about logged data: what is kept, what is cut, what is refused."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_transformer import RLTransformerError
from rl_transformer.trajectories import DataSpec, Space, Trajectory, TrajectoryDataset
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.inspection import as_text, describe
from rl_transformer.trajectories.nested import stack
from rl_transformer.trajectories.returns import returns_to_go
from rl_transformer.trajectories.statistics import StreamingStatistics
from tests.toys import point_data, telling_data


def episode(length=5, **changes):
    values = {
        "observations": np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32),
        "actions": np.random.default_rng(length + 1).uniform(-1, 1, (length, 2)).astype(np.float32),
        "rewards": np.arange(length, dtype=np.float64),
        "terminated": True,
    }
    return values | changes


def test_the_extra_observation_is_cut_in_every_episode_and_kept_as_the_final_one():
    dataset = telling_data()
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103, 104, 105, 106, 200, 201]
    assert dataset.summary.final_observations[:, 0].tolist() == [4, 107, 202]
    assert dataset.offsets.tolist() == [0, 4, 11, 13]


def test_the_return_to_go_includes_the_reward_of_its_step_and_stops_at_the_end_of_the_episode():
    dataset = telling_data()
    assert dataset.returns_to_go.tolist() == [10, 9, 7, 4, 280, 270, 250, 220, 180, 130, 70, 300, 200]
    assert dataset.episode_returns.tolist() == [10, 280, 300]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_returns_to_go_equal_a_naive_loop(rewards):
    naive = [sum(rewards[t:]) for t in range(len(rewards))]
    np.testing.assert_allclose(returns_to_go(np.array(rewards)), naive, rtol=1e-9, atol=1e-6)


def test_termination_and_truncation_are_kept_apart():
    summary = telling_data().summary
    assert summary.terminated.tolist() == [True, False, True]
    assert summary.truncated.tolist() == [False, True, False]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_streaming_statistics_equal_those_of_all_the_data(lengths):
    parts = [np.random.default_rng(i).normal(5, 3, (length, 2)).astype(np.float32) for i, length in enumerate(lengths)]
    streaming = StreamingStatistics(2)
    whole = np.concatenate(parts).astype(np.float64)
    for part in parts:
        streaming.add(part)
    np.testing.assert_allclose(streaming.result().mean, whole.mean(0))
    np.testing.assert_allclose(streaming.result().std, whole.std(0), atol=1e-12)


def test_a_constant_feature_is_reported_and_not_blown_up():
    constant = episode(observations=np.full((5, 3), 7, np.float32))
    dataset = TrajectoryDataset.from_episodes([constant])
    (finding,) = [f for f in dataset.findings if f.kind == "constant feature"]
    assert (finding.level, finding.count) == ("warning", 3)
    assert dataset.statistics.scale.tolist() == [1, 1, 1]


NAN = float("nan")
INF = float("inf")
REFUSED = {
    "NaN in observations": (
        {"observations": np.full((5, 3), NAN)},
        "episode 1, step 0, feature 0, observations: is NaN",
    ),
    "infinite reward": ({"rewards": np.array([0, 0, INF, 0, 0])}, "episode 1, step 2, rewards: is infinite"),
    "NaN in actions": ({"actions": np.full((5, 2), NAN, np.float32)}, "episode 1, step 0, feature 0, actions: is NaN"),
    "actions outside the space": ({"actions": np.full((5, 2), 1.5, np.float32)}, "outside the bounds"),
    "too few actions": ({"actions": np.zeros((4, 2), np.float32)}, "actions: has 4 rows where rewards has shape (5,)"),
    "too many observations": ({"observations": np.zeros((8, 3))}, "observations: has 8 rows"),
    "another width": ({"observations": np.zeros((5, 4))}, "has shape (4,), and the space has (3,)"),
    "text": ({"rewards": np.array(list("abcde"))}, "rewards: holds <U1"),
    "no step": (
        {"observations": np.zeros((0, 3)), "actions": np.zeros((0, 2)), "rewards": np.zeros(0)},
        "holds no step",
    ),
    "rewards with an axis": ({"rewards": np.zeros((5, 2))}, "rewards: has shape (5, 2), not one number per step"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_would_corrupt_training_is_refused_with_its_place_and_fix(name):
    changes, message = REFUSED[name]
    spaces = {"observation_space": Space.box((3,)), "action_space": Space.box((2,), -1, 1)}
    with pytest.raises(RLTransformerError) as caught:
        TrajectoryDataset.from_episodes([episode(), episode(**changes)], **spaces)
    assert message in caught.value.problem
    assert "episode 1" in caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize("actions", [[0, 1, 2, 5], [0, -1, 1, 2], [0.5, 1, 1, 2]])
def test_discrete_actions_off_the_space_are_refused(actions):
    bad = {"observations": np.zeros((4, 1)), "actions": np.array(actions), "rewards": np.zeros(4), "terminated": True}
    with pytest.raises(RLTransformerError, match="is not one of the 3 actions from 0"):
        TrajectoryDataset.from_episodes([bad], action_space=gym.spaces.Discrete(3))


def test_discrete_actions_that_start_at_one_come_back_as_recorded():
    given_actions = np.array([1, 3, 2])
    one = {"observations": np.eye(3), "actions": given_actions, "rewards": np.zeros(3), "terminated": True}
    dataset = TrajectoryDataset.from_episodes([one], action_space=gym.spaces.Discrete(3, start=1))
    assert dataset.actions.tolist() == [0, 2, 1]
    assert dataset.trajectory(0).actions.tolist() == [1, 3, 2]


def test_odd_data_is_reported_and_not_refused():
    unfinished = episode(6, terminated=False)
    dataset = TrajectoryDataset.from_episodes([episode(), episode(), unfinished])
    assert {f.kind for f in dataset.findings if f.level == "warning"} == {"duplicate episode", "unfinished episode"}
    text = as_text(describe(dataset))
    assert "2 terminated, 0 truncated, 1 unfinished" in text
    assert "nothing that training would refuse" in text


def test_a_misspelled_array_is_refused_by_name():
    bad = {"observations": np.zeros((2, 1)), "actions": np.zeros((2, 1)), "reward": np.zeros(2)}
    with pytest.raises(
        RLTransformerError, match=r"episodes\[0\]: has no rewards; it has actions, observations, reward"
    ):
        TrajectoryDataset.from_episodes([bad])


def test_further_columns_are_carried_along():
    dataset = TrajectoryDataset.from_episodes([episode(4, cost=np.arange(4.0)), episode(3, cost=np.arange(3.0))])
    assert dataset.columns["cost"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert dataset.trajectory(1).extras["cost"].tolist() == [0, 1, 2]


SPACES = {
    "box": gym.spaces.Box(-1, 1, (2, 3), np.float64),
    "discrete": gym.spaces.Discrete(4, start=2),
    "multi binary": gym.spaces.MultiBinary(3),
    "dict": gym.spaces.Dict({"b": gym.spaces.Discrete(3), "a": gym.spaces.Box(0, 9, (2,), np.float32)}),
    "tuple": gym.spaces.Tuple(
        (gym.spaces.Discrete(2), gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (1,), np.float32)}))
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_flattening_equals_gymnasiums(name):
    space = SPACES[name]
    space.seed(3)
    ours = space_from_gymnasium(space, where="test")
    samples = [space.sample() for _ in range(5)]
    expected = np.stack([gym.spaces.flatten(space, sample) for sample in samples])
    np.testing.assert_allclose(ours.flatten(stack(samples)), expected, rtol=1e-6)
    assert ours.flat_dim == gym.spaces.flatdim(space)
    assert Space.from_dict(ours.to_dict()) == ours


def test_spaces_without_a_meaning_here_are_refused_by_name():
    with pytest.raises(RLTransformerError, match="Text is not supported"):
        space_from_gymnasium(gym.spaces.Text(5), where="test")
    spec = DataSpec(space_from_gymnasium(gym.spaces.Dict({"say": gym.spaces.Text(5)}), where="test"), Space.discrete(2))
    with pytest.raises(RLTransformerError, match="the part 'say' of the observations is text, which is not supported"):
        spec.check_observations()
    with pytest.raises(RLTransformerError, match="actions of kind multi_binary are not supported"):
        DataSpec(Space.box((1,)), Space("multi_binary", (2,)))


@pytest.mark.parametrize("dtype", [[], {}, "O", "M8[s]", "U5", "[('a', 'f4')]"])
def test_a_box_of_anything_but_numbers_is_refused(dtype):
    described = Space.box((2,)).to_dict()
    with pytest.raises(RLTransformerError, match="does not describe a space"):
        Space.from_dict({**described, "dtype": dtype}, where="store.json")


def test_the_fingerprint_depends_on_content_alone():
    assert point_data(5).fingerprint == point_data(5).fingerprint
    one, other = (episode(5, rewards=np.array([0, 0, 0, 0, last])) for last in (1.0, 2.0))
    assert TrajectoryDataset.from_episodes([one]).fingerprint != TrajectoryDataset.from_episodes([other]).fingerprint
    joined = np.concatenate([episode()["observations"]] * 2)
    twice = TrajectoryDataset.from_episodes([episode()] * 2).fingerprint
    long = {
        "observations": joined,
        "actions": np.tile(episode()["actions"], (2, 1)),
        "rewards": np.tile(episode()["rewards"], 2),
        "terminated": True,
    }
    assert TrajectoryDataset.from_episodes([long]).fingerprint != twice


def test_a_trajectory_goes_in_and_comes_out_unchanged():
    dataset = telling_data()
    again = TrajectoryDataset.in_memory(dataset.spec, (dataset.trajectory(i) for i in range(len(dataset))))
    assert again.fingerprint == dataset.fingerprint
    assert isinstance(dataset.trajectory(0), Trajectory)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((84, 84), (1, 84, 84)),
        ((84, 96, 3), (3, 84, 96)),
        ((4, 84, 84), (4, 84, 84)),
        ((1, 36, 36), (1, 36, 36)),
        ((7, 7, 3), None),
        ((35, 84), None),
        ((36,), None),
    ],
)
def test_pictures_come_channels_first_and_small_grids_are_vectors(shape, expected):
    space = Space.box(shape, 0, 255, "uint8")
    values = np.random.default_rng(0).integers(0, 255, (2, *shape), dtype=np.uint8)
    flat = space.flatten(values)
    assert space.image_shape == expected
    if expected is None:
        assert (flat.dtype, flat.shape) == (np.float32, (2, int(np.prod(shape))))
        return
    assert (flat.dtype, flat.shape) == (np.uint8, (2, *expected))
    place = (1, 2, 3) if len(shape) == 2 else (1, 2, 3, 0) if shape[-1] == 3 else (1, 0, 2, 3)
    assert flat[1, 0, 2, 3] == values[place]


@pytest.mark.parametrize("name", ["dict", "discrete", "pictures"])
def test_flattened_observations_can_be_written_again(name):
    space = gym.spaces.Box(0, 255, (40, 50, 3), np.uint8) if name == "pictures" else SPACES[name]
    space.seed(0)
    seen = stack([space.sample() for _ in range(5)])
    one = {"observations": seen, "actions": np.zeros(4, int), "rewards": np.zeros(4), "terminated": True}
    data = TrajectoryDataset.from_episodes([one], observation_space=space, action_space=gym.spaces.Discrete(2))
    again = TrajectoryDataset.in_memory(data.spec, [data.trajectory(0)])
    assert again.fingerprint == data.fingerprint
    assert again.findings == data.findings
    np.testing.assert_array_equal(again.summary.final_observations, data.summary.final_observations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"returns_to_go": np.ones(5)}, "returns_to_go is a reserved name"),
        ({"offsets": np.ones(5)}, "offsets is a reserved name"),
        ({"terminated": np.array([0, 1, 0, 0, 1])}, "is set at step 1 of 5: the episode goes on after its end"),
        ({"truncated": np.array([0, 0, 1])}, "has 3 flags for 5 steps"),
        ({"terminated": "False"}, "is 'False'"),
        ({"rewards": np.full(5, 1e300)}, "sum to more than float32 can hold"),
    ],
)
def test_what_would_change_returns_silently_is_refused(changes, message):
    with pytest.raises(RLTransformerError) as caught:
        TrajectoryDataset.from_episodes([episode(**changes)])
    assert message in str(caught.value)


def test_observations_off_their_space_are_refused():
    space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2,), np.float32), "b": gym.spaces.Discrete(3, start=1)})
    good = {"a": np.zeros((5, 2)), "b": np.array([1, 2, 3, 1, 2])}
    for bad, message in (
        ({**good, "b": np.array([1.7, 2, 3, 1, 2])}, "is not one of the 3 values from 1"),
        ({**good, "b": np.array([np.nan, 2, 3, 1, 2])}, "is not one of the 3 values from 1"),
        ({**good, "zz": np.zeros(5)}, "has 3 parts, and the space has 2"),
        ({"a": good["a"]}, "has 1 parts, and the space has 2"),
        ({**good, "b": np.ones((5, 2))}, "a value of this space is one number"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            TrajectoryDataset.from_episodes([episode(observations=bad)], observation_space=space)
    TrajectoryDataset.from_episodes(
        [episode(observations=good)], observation_space=space
    )  # the action space is guessed
