"""Further claims about what is reported, and what is not, when data is read."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from tests.trajectories.samples import finding, from_vectors, kinds, vectors
from tests.trajectories.test_refusals_and_cures import declared
from tests.trajectories.test_silent_mistakes import pictures, seen


def of_lengths(lengths, flags=("terminated",)):
    """Return data with episodes of these lengths, which end by these flags in turn."""
    episodes = []
    for index, length in enumerate(lengths):
        ends = {"terminated": None, flags[index % len(flags)]: True}
        episodes.append(vectors(length, seed=index, **ends))
    return from_vectors(*episodes)


@pytest.mark.parametrize("flags", [("terminated",), ("terminated", "truncated"), ("truncated",)])
@pytest.mark.parametrize("lengths", [[19, 1] * 3, [19, 1] * 10, [19, 1] * 5 + [7]])
def test_one_step_after_every_end_is_reported(lengths, flags):
    """As in D4RL data with a timeout one step after each terminal."""
    found = finding(of_lengths(lengths, flags), "consecutive ends")
    assert (found.level, found.field) == ("warning", flags[0])
    assert "exactly one episode of a single step" in found.problem
    assert "leave out the steps after it" in found.fix


def test_one_step_episodes_of_bandits_and_short_games_are_ordinary():
    random = np.random.default_rng(0)
    assert "consecutive ends" not in kinds(of_lengths([1] * 30))
    for share in (0.2, 0.5, 0.8, 0.95):
        lengths = np.where(random.random(200) < share, 1, random.integers(2, 9, 200))
        assert "consecutive ends" not in kinds(of_lengths(lengths))
    assert "consecutive ends" not in kinds(of_lengths([19, 1, 8, 12, 1, 5, 1]))
    assert "consecutive ends" not in kinds(of_lengths([19, 8, 12, 5]))


@pytest.mark.parametrize(
    "column", [2.0**50 + np.arange(60), 1e15 + np.arange(60), 1e12 + 1e-3 * np.arange(60), -1e15 - np.arange(60)]
)
def test_numbers_that_only_float64_tells_apart_are_reported(column):
    assert len(np.unique(column)) == 60
    observations = np.stack([np.random.default_rng(0).normal(size=60), column], axis=1)
    assert finding(from_vectors(vectors(60, observations=observations)), "precision").positions == [{"feature": 1}]


def test_sums_in_another_order_are_rounding_noise():
    parts = np.random.default_rng(0).uniform(size=20)
    sums = np.array([np.random.default_rng(i).permutation(parts).sum() for i in range(60)])
    assert len(np.unique(sums)) > 1
    assert "precision" not in kinds(from_vectors(vectors(60, observations=np.stack([sums, np.arange(60)], axis=1))))


@pytest.mark.parametrize("shape", [(16, 16, 3), (28, 28), (24, 24, 1), (84, 20, 3), (3, 16, 16)])
def test_small_pictures_are_said_to_be_flattened(shape):
    found = finding(seen(pictures(*shape)), "flattened picture")
    assert "look like pictures" in found.problem
    assert "flattened" in found.problem
    assert "resize them to 36 x 36" in found.fix
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    assert "flattened picture" in kinds(seen(pictures(*shape), observation_space=space))


def test_pictures_of_signed_bytes_are_told_with_a_cure_that_works():
    signed = pictures(84, 84, 3).view(np.int8)
    found = finding(seen(signed), "flattened picture")
    assert (found.level, "pictures.view(np.uint8)" in found.fix) == ("warning", True)
    assert seen(signed.view(np.uint8)).spec.observation_space.is_image


@pytest.mark.parametrize("shape", [(7, 7, 3), (16, 16, 3), (19, 19)])
def test_maps_of_grid_worlds_are_no_pictures(shape):
    codes = np.random.default_rng(0).integers(0, 11, (4, *shape))
    for dtype in (np.uint8, np.int8):
        assert "flattened picture" not in kinds(seen(codes.astype(dtype)))
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    assert "flattened picture" not in kinds(seen(codes.astype(np.uint8), observation_space=space))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("clip_actions", [False, True])
def test_an_infinite_action_is_refused_and_never_clipped(value, clip_actions):
    actions = vectors()["actions"]
    actions[2, 0] = value
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(RLTransformerError, match=r"episode 0, step 2, feature 0.*is infinite") as caught:
        from_vectors(vectors(actions=actions), action_space=space, clip_actions=clip_actions)
    assert "clip_actions" not in str(caught.value)
    actions[2, 0] = 3  # a finite one is clipped, and told
    clipped = from_vectors(vectors(actions=actions), action_space=space, clip_actions=True)
    assert (clipped.actions[2, 0], finding(clipped, "clipped actions").count) == (1, 1)


@pytest.mark.parametrize(
    ("actions", "kept", "fix"),
    [
        (np.array([1, 2, 3, 1, 2, 3]), "4 discrete", "Discrete(3, start=1)"),
        (np.array([[1, 0], [2, 5], [2, 3], [1, 3], [2, 3], [1, 3]]), "3 x 6 discrete", "([2, 6], start=[1, 0])"),
    ],
)
def test_the_fix_for_guessed_actions_names_the_smallest_logged_one(actions, kept, fix):
    data = from_vectors(vectors(actions=actions))
    found = finding(data, "guessed space")
    assert str(data.spec.action_space) == kept
    assert fix in found.fix
    cured = from_vectors(vectors(actions=actions), action_space=declared(found.fix))
    np.testing.assert_array_equal(cured.trajectory(0).actions, actions)
    assert int(np.min(cured.actions)) == 0
    as_floats = finding(from_vectors(vectors(actions=actions.astype(float))), "guessed space")
    assert fix in as_floats.fix


TUPLES = [(np.ones(2), np.ones(3))] * 6
TUPLE_SPACE = gym.spaces.Tuple([gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (3,))])


@pytest.mark.parametrize(
    "observations",
    [TUPLES, TUPLES * 2, tuple(TUPLES), (np.ones((6, 2)), np.ones((6, 3))), [(np.ones(2), 1)] * 6],
)
def test_tuple_observations_without_a_space_are_answered_like_dicts(observations):
    with pytest.raises(RLTransformerError, match="observations are nested") as caught:
        from_vectors(vectors(observations=observations))
    assert caught.value.fix == "pass observation_space="
    assert from_vectors(vectors(observations=TUPLES), observation_space=TUPLE_SPACE).observations.shape == (6, 5)


@pytest.mark.parametrize("observe", [[1], ["1"], (np.int64(1),), "1", 1])
def test_parts_of_a_tuple_are_named_by_numbers_or_texts(observe, tmp_path):
    data = from_vectors(vectors(observations=TUPLES), observation_space=TUPLE_SPACE, observe=observe)
    assert data.observations.shape == (6, 3)
    whole = from_vectors(vectors(observations=TUPLES), observation_space=TUPLE_SPACE).save(tmp_path / "s")
    assert open_trajectories(whole, observe=observe).fingerprint == data.fingerprint


@pytest.mark.parametrize("observe", [[1.5], [None], [True]])
def test_what_is_no_name_of_a_part_is_refused(observe):
    with pytest.raises(RLTransformerError, match=r"dataset\.observe: .* is not the name of a part"):
        from_vectors(vectors(observations=TUPLES), observation_space=TUPLE_SPACE, observe=observe)


@pytest.mark.parametrize(
    ("actions", "space"),
    [
        (np.array([-1, 0, 1, -1, 0, 1]), gym.spaces.Discrete(3)),
        (np.array([1, 2, 3, 1, 2, 3]), gym.spaces.Discrete(3)),
        (np.array([[1, 0], [2, 1], [3, 0], [1, 0], [1, 0], [1, 1]]), gym.spaces.MultiDiscrete([3, 2])),
    ],
)
def test_actions_that_begin_elsewhere_are_answered_with_a_space_that_takes_them(actions, space):
    with pytest.raises(RLTransformerError, match="is not") as caught:
        from_vectors(vectors(actions=actions), action_space=space)
    cured = from_vectors(vectors(actions=actions), action_space=declared(caught.value.fix))
    np.testing.assert_array_equal(cured.trajectory(0).actions, actions)


@pytest.mark.parametrize("infos", [[{"a": 1}] * 6, {"a": np.ones(6)}, [[1], [1, 2], [], [3], [4], [5]]])
def test_a_column_that_cannot_be_stored_may_be_left_out(infos):
    with pytest.raises(RLTransformerError, match="infos") as caught:
        from_vectors(vectors(infos=infos))
    assert "leave it out" in caught.value.fix
