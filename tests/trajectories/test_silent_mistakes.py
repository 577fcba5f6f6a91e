"""Claims about data that earlier versions took in another way than it was meant, without a word."""

import json

import gymnasium as gym
import h5py
import numpy as np
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, open_trajectories, train
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import finding_text, notable
from rl_transformer.trajectories.inspection import as_text, describe
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.store_files import write_columns
from rl_transformer.trajectories.trajectory import Trajectory
from tests.toys import point_data, telling_data, tiny_config
from tests.trajectories.foreign_files import buffers_of, write_d4rl, write_minari
from tests.trajectories.samples import finding, from_vectors, kinds, vectors

TERMINATED = ("terminals", "terminal", "terminations", "terminateds", "is_terminal", "next_terminated", "isTerminal")
DONE = ("Dones", "done", "next_done", "is_last", "dones_float", "is_done")
TRUNCATED = ("timeouts", "truncations", "truncateds", "TimeLimit.truncated", "time_outs", "next_truncated")


@pytest.mark.parametrize("name", [*TERMINATED, *DONE, *TRUNCATED])
def test_an_end_flag_is_read_under_every_usual_name(name):
    """Reported as ray PR#48699 and torchrl PR#1539."""
    flags = np.zeros(6)
    flags[-1] = 1
    data = from_vectors(vectors(terminated=None, **{name: flags}))
    assert data.summary.truncated.tolist() == [name in TRUNCATED]
    assert data.summary.terminated.tolist() == [name not in TRUNCATED]
    assert name not in data.columns
    flags[2] = 1  # two episodes that were recorded as one
    with pytest.raises(RLTransformerError, match=f"{name}: is set at step 2 of 6") as caught:
        from_vectors(vectors(terminated=None, **{name: flags}))
    assert "give every episode on its own" in caught.value.fix


def test_done_says_what_the_flag_beside_it_leaves_open():
    last = np.arange(6) == 5
    cut = from_vectors(vectors(terminated=None, dones=last, timeouts=last))
    assert (cut.summary.terminated[0], cut.summary.truncated[0]) == (False, True)
    cut = from_vectors(vectors(terminated=False, done=True))
    assert (cut.summary.terminated[0], cut.summary.truncated[0]) == (False, True)
    with pytest.raises(RLTransformerError, match="terminated is False and terminals is True"):
        from_vectors(vectors(terminals=last, terminated=False))


def test_a_flag_of_first_steps_and_an_unknown_flag_are_not_swallowed():
    first = np.arange(6) == 0
    assert "is_first" not in from_vectors(vectors(is_first=first)).columns
    with pytest.raises(RLTransformerError, match="is_first: is set at step 3 of 6: another episode begins there"):
        from_vectors(vectors(is_first=first | (np.arange(6) == 3)))
    for name in ("agent_done", "episodeOver", "game_over", "env_terminated"):
        with pytest.raises(RLTransformerError, match=f"'{name}' looks like a flag of episode ends") as caught:
            from_vectors(vectors(**{name: first}))
        assert "call it terminated" in caught.value.fix
    assert "time_to_done" in from_vectors(vectors(time_to_done=np.arange(6.0))).columns  # numbers are no flag
    assert "last" in from_vectors(vectors(last=np.arange(6.0))).columns


def test_d4rl_files_with_other_names_of_flags_are_read_alike(tmp_path):
    data = telling_data()
    write_d4rl(tmp_path / "d.hdf5", data)
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        file.move("terminals", "terminations")
        file.move("timeouts", "truncations")
    assert open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}").fingerprint == data.fingerprint
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        file["dones"] = file["terminations"][:] | file["truncations"][:]
        del file["truncations"]
    assert open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}").fingerprint == data.fingerprint
    with h5py.File(tmp_path / "d.hdf5", "r+") as file:
        file["timeouts"] = file["dones"][:] & ~file["terminations"][:]
        del file["terminations"]
    assert open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}").fingerprint == data.fingerprint


def test_a_reader_or_store_with_a_flag_among_further_columns_is_refused():
    flags = np.array([0, 1, 0, 1])
    one = Trajectory(np.zeros((4, 1)), np.zeros((4, 1)), np.ones(4), terminated=True, extras={"dones": flags})
    data = TrajectoryDataset.in_memory(DataSpec(Space.box((1,)), Space.box((1,), -1, 1)), [one])
    found = finding(data, "end inside of an episode")
    assert (found.level, found.field) == ("error", "dones")
    assert "step 1" in found.problem


def test_a_store_of_an_earlier_version_with_a_flag_among_its_columns_is_refused(tmp_path):
    """Earlier versions took ``dones`` for a column like any other, and joined the episodes."""
    data = from_vectors(vectors(marks=np.array([0, 0, 1, 0, 0, 1])))
    data.save(tmp_path / "s")
    (tmp_path / "s" / "marks.npy").rename(tmp_path / "s" / "dones.npy")
    for name in ("store.json", "manifest.json"):
        text = (tmp_path / "s" / name).read_text().replace('"marks', '"dones')
        (tmp_path / "s" / name).write_text(text)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["files"]["store.json"]["bytes"] = (tmp_path / "s" / "store.json").stat().st_size
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RLTransformerError, match="episode 0, dones: is set at step 2"):
        open_trajectories(f"rlt:{tmp_path / 's'}")


def test_the_advice_for_an_environment_is_complete(tmp_path, monkeypatch):
    """Reported as Minari#304 and Minari#301."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = gym.make("CartPole-v1", max_episode_steps=50, sutton_barto_reward=True, render_mode="rgb_array")
    data = telling_data()
    spaces = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-1, 1, (1,), np.float32)
    uri = write_minari("toy/made-v0", buffers_of(data), *spaces, env=made.spec)
    expected = """--env-id CartPole-v1 --env-kwargs '{"max_episode_steps": 50, "sutton_barto_reward": true}'"""
    read = open_trajectories(uri)
    assert expected in as_text(describe(read))
    read.save(tmp_path / "store")
    assert open_trajectories(tmp_path / "store").spec.environment_options == expected
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=read))
    assert policy.spec.data.environment_options == expected
    assert point_data(2).spec.environment_options == ""


def test_the_advice_cannot_do_harm_in_a_terminal():
    spec = DataSpec(Space.box((1,)), Space.discrete(2), env_id="X-v0; rm \x1b[2J", env_kwargs={"a": "'\x1b$(b)"})
    assert spec.environment_options == """--env-id 'X-v0; rm ?[2J' --env-kwargs '{"a": "'"'"'\\u001b$(b)"}'"""


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-LARGEST, LARGEST, np.float32),
        (-2e38, 2e38, np.float32),
        (-float(np.finfo(np.float64).max), float(np.finfo(np.float64).max), np.float64),
        (np.iinfo(np.int64).min, np.iinfo(np.int64).max, np.int64),
        (0, LARGEST, np.float32),
    ],
)
def test_bounds_that_overflow_are_no_bounds(low, high, dtype, tmp_path):
    """Reported as FCPCodebase#31."""
    actions = np.random.default_rng(0).integers(0, 3, (6, 2)).astype(dtype)
    data = from_vectors(vectors(actions=actions), action_space=gym.spaces.Box(low, high, (2,), dtype))
    bounds = data.spec.action_space.bounds
    assert np.isinf(bounds[1]).all()
    assert bounds[0].tolist() == ([0, 0] if low == 0 else [-np.inf, -np.inf])
    with pytest.raises(RLTransformerError, match="the action space has no bounds") as caught:
        train(tiny_config(tmp_path / "squashed"), dataset=data)
    assert "model.action_tanh to false" in caught.value.fix
    policy = load_policy(train(tiny_config(tmp_path / "run", model={"action_tanh": False}), dataset=data))
    assert np.abs(policy.session(6.0).act(np.zeros(3))).max() < 100


def test_actions_that_use_a_tiny_share_of_their_bounds_are_reported():
    wide = gym.spaces.Box(np.float32([-1, -1e6]), np.float32([1, 1e6]))
    found = finding(from_vectors(action_space=wide), "tiny actions")
    assert found.level == "warning"
    assert found.positions == [{"feature": 1}]
    assert kinds(from_vectors(action_space=gym.spaces.Box(-2, 2, (2,), np.float32))) == set()
    # A dimension that never changes says nothing about its bounds.
    still = vectors(actions=np.zeros((6, 2), np.float32))
    assert "tiny actions" not in kinds(from_vectors(still, action_space=wide))


def pictures(*shape, dtype=np.uint8):
    values = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    return values if dtype == np.uint8 else (values / 255).astype(dtype)


def seen(values, **options):
    one = {"observations": values, "actions": np.array([0, 1, 0]), "rewards": np.ones(3), "terminated": True}
    return TrajectoryDataset.from_episodes([one], action_space=gym.spaces.Discrete(2), **options)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((84, 84, 12), (0, 3, 1, 2)),
        ((12, 84, 84), (0, 1, 2, 3)),
        ((4, 84, 84, 1), (0, 1, 4, 2, 3)),
        ((4, 3, 84, 84), (0, 1, 2, 3, 4)),
        ((84, 96, 4, 3), (0, 3, 4, 1, 2)),
        ((84, 96, 3), (0, 3, 1, 2)),
        ((84, 84, 2), (0, 3, 1, 2)),
    ],
)
def test_pictures_of_every_layout_are_pictures(shape, axes):
    """Reported as Minari#307 and d3rlpy#397."""
    values = pictures(*shape)
    data = seen(values)
    assert data.spec.observation_space.is_image
    channels_first = values.transpose(axes)
    np.testing.assert_array_equal(data.observations, channels_first.reshape(4, -1, *channels_first.shape[-2:])[:3])
    assert Space.from_dict(data.spec.observation_space.to_dict()) == data.spec.observation_space


def test_a_policy_of_stacked_frames_reads_pictures(tmp_path):
    data = seen(pictures(40, 40, 12))
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    assert policy.spec.model.image_shape == (12, 40, 40)
    assert policy.session(3.0).act(pictures(40, 40, 12)[0]) in (0, 1)
    # Files of the first version hold vectors in this layout, and still do.
    first_version = {k: v for k, v in data.spec.observation_space.to_dict().items() if k != "image"}
    space = Space.from_dict(first_version)
    assert space.flat_shape == (40 * 40 * 12,)
    assert Space.from_dict(space.to_dict()) == space
    # And a policy of such data is still taken into its environment.
    assert data.spec.observation_space.observed_like(space) == space


@pytest.mark.parametrize(
    ("values", "level"),
    [
        (pictures(84, 84, 3, dtype=np.float32), "warning"),
        (pictures(84, 84).astype(np.int64), "warning"),
        (pictures(32, 32, 3), "info"),
    ],
)
def test_what_looks_like_a_picture_and_is_a_vector_is_reported(values, level):
    found = finding(seen(values), "flattened picture")
    assert found.level == level
    if level == "warning":  # the cure, followed to the letter
        assert "(255 * pictures).round().astype(np.uint8)" in found.fix
        scaled = values / values.max()
        assert seen((255 * scaled).round().astype(np.uint8)).spec.observation_space.is_image


def test_grids_and_vectors_are_no_pictures():
    assert kinds(seen(pictures(7, 7, 3))) == set()
    heights = np.random.default_rng(0).normal(size=(4, 64, 64))
    assert kinds(seen(heights)) == set()


def test_a_feature_that_float32_rounds_away_is_reported():
    """Reported as SB3#2265."""
    clock = 1_700_000_000 + np.arange(60.0)
    observations = np.stack([np.random.default_rng(0).normal(size=60), clock], axis=1)
    data = from_vectors(vectors(60, observations=observations))
    found = finding(data, "precision")
    assert (found.level, found.positions) == ("warning", [{"feature": 1}])
    assert "constant feature" not in kinds(data)
    observations[:, 1] -= clock[0]  # the cure
    cured = from_vectors(vectors(60, observations=observations))
    assert "precision" not in kinds(cured)
    assert len(np.unique(cured.observations[:, 1])) == 60


@pytest.mark.parametrize("recorded", [np.int64, np.float64])
def test_the_same_holds_for_parts_and_actions(recorded):
    clock = (1_700_000_000_000 + np.arange(6)).astype(recorded)
    space = gym.spaces.Dict(
        {"at": gym.spaces.Box(-1, 1, (2,)), "clock": gym.spaces.Box(-np.inf, np.inf, (), np.float64)}
    )
    parts = {"at": np.random.default_rng(0).uniform(-1, 1, (6, 2)), "clock": clock}
    assert finding(from_vectors(vectors(observations=parts), observation_space=space), "precision").field == (
        "observations[clock]"
    )
    actions = np.stack([clock, clock], axis=1).astype(np.float64)
    assert finding(from_vectors(vectors(actions=actions)), "precision").field == "actions"


def test_rounding_noise_is_no_loss_of_precision():
    noisy = np.full((6, 3), 0.1)
    noisy[3] += 1e-17
    noisy[4] = np.nextafter(0.1, 1)
    assert "precision" not in kinds(from_vectors(vectors(observations=noisy)))
    assert "precision" not in kinds(from_vectors(vectors(observations=np.random.default_rng(0).normal(1e4, 1, (6, 3)))))


def d4rl_flags(tmp_path, terminals, timeouts):
    steps = len(terminals)
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(steps, 2)).astype(np.float32)
        file["actions"] = np.random.default_rng(1).uniform(-1, 1, (steps, 1)).astype(np.float32)
        file["rewards"] = np.ones(steps)
        file["terminals"] = terminals
        file["timeouts"] = timeouts
    return open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}")


def test_runs_of_consecutive_ends_are_reported(tmp_path):
    """Reported as D4RL#199 and D4RL#77."""
    at_goal = np.tile(np.arange(10) >= 6, 3)  # set at every step at the goal
    data = d4rl_flags(tmp_path, at_goal, np.zeros(30, bool))
    assert data.num_trajectories == 12
    assert finding(data, "consecutive ends").level == "warning"
    # The same with timeouts, which stay set here.
    assert "consecutive ends" in kinds(d4rl_flags(tmp_path, np.zeros(30, bool), at_goal))


def test_one_step_episodes_are_no_runs_of_ends(tmp_path):
    assert "consecutive ends" not in kinds(d4rl_flags(tmp_path, np.ones(30, bool), np.zeros(30, bool)))
    game = np.random.default_rng(0).random(200) < 0.8  # as in Blackjack, most games end at once
    assert "consecutive ends" not in kinds(d4rl_flags(tmp_path, game, np.zeros(200, bool)))
    some = np.zeros(40, bool)
    some[[9, 10, 19, 29, 30, 39]] = True  # now and then an episode of one step
    assert "consecutive ends" not in kinds(d4rl_flags(tmp_path, some, np.zeros(40, bool)))


def test_bounds_are_guessed_for_each_dimension():
    """Two set-points of a plant, reported by a user's own journey."""
    random = np.random.default_rng(0)
    set_points = np.stack([random.uniform(16, 24, 50), random.uniform(20, 30, 50), random.uniform(-1, 1, 50)], axis=1)
    data = from_vectors(vectors(50, actions=set_points))
    low, high = data.spec.action_space.bounds
    np.testing.assert_allclose(low, [*set_points[:, :2].min(axis=0), -1], rtol=1e-6)
    np.testing.assert_allclose(high, [*set_points[:, :2].max(axis=0), 1], rtol=1e-6)
    guess = finding(data, "guessed space")
    assert guess.level == "warning"
    assert guess in notable(data.findings)  # what `rlt train` prints
    assert "16." in finding_text(guess)
    both_signs = from_vectors(vectors(50, actions=random.uniform(-3, 2, (50, 1))))
    low, high = both_signs.spec.action_space.bounds
    assert low == -high
    usual = from_vectors()
    assert [b.tolist() for b in usual.spec.action_space.bounds] == [[-1, -1], [1, 1]]
    assert finding(usual, "guessed space") in notable(usual.findings)


def test_written_data_keeps_its_findings_once(tmp_path):
    data = from_vectors(vectors(seed=1), vectors(seed=1))
    folder = write_columns(tmp_path / "s", data.spec, (data.trajectory(i) for i in range(2)), notes=data.findings)
    assert open_trajectories(f"rlt:{folder}").findings == data.findings
