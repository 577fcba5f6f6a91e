"""Claims about actions of several discrete parts, from the space to the score: every part keeps its own values."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, Space, TrajectoryDataset, evaluate, load_policy, open_trajectories, train
from rl_transformer.environments.making import check_spaces, make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import DIALS, DialsEnv, dials_data, tiny_config, untrained_policy
from tests.trajectories.foreign_files import buffers_of, write_minari, write_rlt

CHANCE = 2 * (1 / 3 + 1 / 2)  # the mean return of random dials; 4 is the best
SKILLED = {
    "training": {
        "train_steps": 500,
        "warmup_steps": 20,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "checkpoint_every": 500,
    },
    "model": {"hidden_size": 32, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0},
    "windows": {"context_length": 2},
}


def episode(actions):
    length = len(actions)
    observations = np.random.default_rng(0).normal(size=(length, 1))
    return {"observations": observations, "actions": np.array(actions), "rewards": np.zeros(length), "terminated": True}


@pytest.fixture(scope="module")
def skilled(tmp_path_factory):
    """A policy that learned the dials."""
    config = tiny_config(tmp_path_factory.mktemp("dials") / "run", **SKILLED)
    return load_policy(train(config, dataset=dials_data()))


def test_the_space_keeps_sizes_starts_and_shape():
    space = space_from_gymnasium(gym.spaces.MultiDiscrete([3, 2], start=[1, 0]), where="test")
    assert (space.kind, space.nvec, space.starts, space.shape) == ("multi_discrete", (3, 2), (1, 0), (2,))
    assert (space.flat_dim, space.action_shape, space.action_dtype) == (5, (2,), np.int64)
    grid = space_from_gymnasium(gym.spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[1, 0], [0, 2]]), where="test")
    assert (grid.nvec, grid.starts, grid.shape) == ((3, 2, 4, 5), (1, 0, 0, 2), (2, 2))
    for one in (space, grid):
        assert Space.from_dict(one.to_dict()) == one


@pytest.mark.parametrize(
    "space", [gym.spaces.MultiDiscrete([3, 2]), gym.spaces.MultiDiscrete([[3, 2], [4, 5]])], ids=str
)
def test_observations_of_several_parts_are_flattened_as_gymnasium_flattens_them(space):
    space.seed(1)
    samples = [space.sample() for _ in range(6)]
    expected = np.stack([gym.spaces.flatten(space, sample) for sample in samples])
    ours = space_from_gymnasium(space, where="test")
    np.testing.assert_array_equal(ours.flatten(np.stack(samples)), expected)


def test_actions_are_stored_from_zero_and_come_back_as_recorded():
    recorded = [[1, 0], [3, 1], [2, 0]]
    data = TrajectoryDataset.from_episodes(
        [episode(recorded)], action_space=gym.spaces.MultiDiscrete([3, 2], start=[1, 0])
    )
    assert data.actions.tolist() == [[0, 0], [2, 1], [1, 0]]
    assert data.actions.dtype == np.int64
    assert data.trajectory(0).actions.tolist() == recorded
    grid = np.arange(12).reshape(3, 2, 2) % 3
    shaped = TrajectoryDataset.from_episodes([episode(grid)], action_space=gym.spaces.MultiDiscrete([[3, 3], [3, 3]]))
    assert shaped.actions.shape == (3, 4)
    assert shaped.trajectory(0).actions.tolist() == grid.tolist()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[1, 0], [4, 1]], r"episode 0, step 1, feature 0, actions: is not among the \[3, 2\] actions from \[1, 0\]"),
        ([[0, 0], [1, 1]], "episode 0, step 0, feature 0"),
        ([[1, 2], [1, 1]], "episode 0, step 0, feature 1"),
        ([[1.5, 0], [1, 1]], "episode 0, step 0, feature 0"),
        ([[1, 0, 0], [1, 1, 0]], "an action of this space is 2 numbers"),
    ],
)
def test_actions_off_a_part_are_refused_with_their_place(actions, message):
    space = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])
    with pytest.raises(RLTransformerError, match=message):
        TrajectoryDataset.from_episodes([episode(actions)], action_space=space)


def test_whole_numbers_in_columns_are_guessed_to_be_parts_and_the_guess_is_reported():
    data = TrajectoryDataset.from_episodes([episode([[0, 4], [2, 1]])])
    assert data.spec.action_space == Space.multi_discrete([3, 5])
    (guess,) = [finding for finding in data.findings if finding.kind == "guessed space"]
    assert guess.level == "warning"
    assert "MultiDiscrete([3, 4], start=[0, 1])" in guess.fix  # from the smallest logged value of each part
    assert "[3, 5]" in guess.problem


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_sessions_feed_the_model_what_training_windows_hold(attention):
    data = dials_data(6)
    policy = untrained_policy(data, model={"attention": attention})
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 2, policy.device)
    for row in range(6):
        logged = data.trajectory(row)
        session = policy.session(4.0)
        history = session._batch._history
        for t in range(2):
            action = session.act(logged.observations[t])
            assert policy.spec.data.action_space.encode_actions(action[None]).tolist() == [
                history.columns["actions"][t].tolist()
            ]
            history.columns["actions"][t] = torch.from_numpy(data.actions[data.offsets[row] + t])
            session.observe(float(logged.rewards[t]))
        window = gatherer.gather(WindowIndex(data.offsets[row : row + 1], np.array([row])))
        assert torch.equal(history.columns["actions"][:2], window.actions[0])
        torch.testing.assert_close(history.columns["states"][:2], window.states[0])


@pytest.mark.parametrize("selection", ["greedy", "sample"])
def test_only_legal_values_of_every_part_are_chosen(selection):
    """Masks as a tuple with one per part and as one flat vector mean the same, alone and in a batch."""
    policy = untrained_policy(dials_data(6), policy={"action_selection": selection})
    for first in range(3):
        for second in range(2):
            parts = (np.arange(3) == first, np.arange(2) == second)
            flat = np.concatenate(parts)
            expected = [first + 1, second]  # the first dial counts from 1
            for allowed in (parts, flat, [bool(value) for value in flat]):
                action = policy.session(4.0).act(np.zeros(5), allowed=allowed)
                assert action.tolist() == expected
                assert action.dtype == np.int64
                assert policy.spec.data.action_space.shape == action.shape
            both = policy.sessions([4.0, 4.0], [0, 1])
            for allowed in (tuple(np.stack([part, part]) for part in parts), np.stack([flat, flat])):
                both.reset([0, 1], [4.0, 4.0], [0, 1])
                assert both.act([0, 1], np.zeros((2, 5)), allowed=allowed).tolist() == [expected, expected]


BAD_MASKS = {
    "a part without a legal value": ((np.zeros(3, bool), np.ones(2, bool)), "at least one legal action per part"),
    "the other part without one": (np.array([1, 1, 1, 0, 0], bool), "at least one legal action per part"),
    "too few values": (np.ones(4, bool), r"pass booleans of shape \(5,\)"),
    "parts in another order": ((np.ones(2, bool), np.ones(3, bool)), r"a tuple with a mask of each length in \[3, 2\]"),
    "one part missing": ((np.ones(3, bool),), r"a tuple with a mask of each length in \[3, 2\]"),
    "a list of parts": ([[True] * 3, [True] * 2], r"a tuple with a mask of each length in \[3, 2\]"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_mask_of_another_form_is_refused_with_the_fix_and_the_session_goes_on(name):
    allowed, fix = BAD_MASKS[name]
    session = untrained_policy(dials_data(6)).session(4.0)
    with pytest.raises(RLTransformerError, match=f"fix: .*{fix}"):
        session.act(np.zeros(5), allowed=allowed)
    assert session.act(np.zeros(5), allowed=np.ones(5, bool)).shape == (2,)


def test_a_tuple_of_booleans_is_one_mask_where_actions_have_no_parts():
    discrete = {"observations": np.eye(3), "actions": np.array([0, 1, 2]), "rewards": np.zeros(3), "terminated": True}
    policy = untrained_policy(TrajectoryDataset.from_episodes([discrete]))
    assert policy.session(0.0).act(np.zeros(3), allowed=(False, True, False)) == 1
    rows = ((False, True, False), (False, False, True))
    assert policy.sessions([0.0, 0.0], [0, 1]).act([0, 1], np.zeros((2, 3)), allowed=rows).tolist() == [1, 2]


def test_both_parts_are_learned_far_beyond_chance(skilled):
    report = evaluate(skilled, env_id=DIALS, target_returns=[4.0], num_episodes=50)
    assert report.targets[0].mean > 3.8 > CHANCE + 2
    assert set(report.targets[0].episode_lengths) == {2}


def test_each_part_follows_its_own_cue(skilled):
    for first in range(3):
        for second in range(2):
            observation = np.zeros(5, np.float32)
            observation[[first, 3 + second]] = 1
            assert skilled.session(4.0).act(observation).tolist() == [first + 1, second]


def test_a_saved_policy_acts_as_the_one_that_was_saved(skilled, tmp_path):
    skilled.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.spec == skilled.spec
    assert (loaded.spec.model.action_head, loaded.spec.model.action_parts) == ("multi_discrete", (3, 2))
    session = skilled.session(4.0)
    again = loaded.session(4.0)
    for observation in dials_data(10).observations:
        assert session.act(observation).tolist() == again.act(observation).tolist()
        session.observe(1.0)
        again.observe(1.0)


def test_an_environment_with_other_parts_is_refused(skilled):
    environment = DialsEnv()
    environment.action_space = gym.spaces.MultiDiscrete([3, 2])
    with pytest.raises(
        RLTransformerError, match=r"\[3, 2\] integers from \[0, 0\], .* \[3, 2\] integers from \[1, 0\]"
    ):
        check_spaces(environment, skilled.spec.data, DIALS)


def test_actions_that_a_policy_recorded_are_in_the_space(skilled):
    spec, trajectories = record_episodes(make_environment(DIALS), DIALS, 4, seed=3, policy=skilled, target=4.0)
    data = TrajectoryDataset.in_memory(spec, trajectories)
    assert not [finding for finding in data.findings if finding.level == "error"]
    assert data.episode_returns.mean() > 3


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_data_of_several_parts_comes_back_as_it_was(data_format, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = dials_data(5)
    environment = DialsEnv()
    spaces = (environment.observation_space, environment.action_space)
    read = open_trajectories(write_minari("toy/dials-v0", buffers_of(data), *spaces, data_format))
    assert read.fingerprint == data.fingerprint
    assert read.spec.action_space == data.spec.action_space
    assert read.trajectory(4).actions.tolist() == data.trajectory(4).actions.tolist()


def test_a_store_of_several_parts_comes_back_as_it_was_and_can_be_learned_from(tmp_path):
    data = dials_data(5)
    uri = write_rlt(tmp_path / "store", data)
    read = open_trajectories(uri)
    assert read.fingerprint == data.fingerprint
    assert read.spec.action_space == data.spec.action_space
    assert read.actions.tolist() == data.actions.tolist()
    assert read.trajectory(4).actions.tolist() == data.trajectory(4).actions.tolist()
    config = tiny_config(tmp_path / "run", dataset={"uri": uri, "validation_fraction": 0.4})
    assert load_policy(train(config)).spec.data.action_space == data.spec.action_space


@pytest.mark.parametrize("head", ["discrete", "continuous", "gaussian"])
def test_a_head_for_other_actions_is_refused(head, tmp_path):
    with pytest.raises(RLTransformerError, match=rf"the {head} head does not fit these actions \(multi_discrete\)"):
        train(tiny_config(tmp_path / "run", model={"action_head": head}), dataset=dials_data(5))
