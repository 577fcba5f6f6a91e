"""Claims about observations of pictures beside numbers: nothing is lost between recording, training and acting."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, evaluate, load_policy, train
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.trajectories import Space, TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.mixed_rows import numbers_of
from rl_transformer.trajectories.mixed_tensors import split_rows
from rl_transformer.trajectories.store import write_store
from rl_transformer.utils.data import Dataset
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import tiny_config, untrained_policy
from tests.trajectories.robot import PARTS, ROBOT, TwoCameras, robot_data, robot_episodes


def test_a_row_holds_every_picture_and_number_as_recorded():
    data = robot_data(2)
    space = data.spec.observation_space
    assert space.streams.shapes == ((3, 40, 38), (1, 36, 36), (7,))
    episode = robot_episodes(2)[1]["observations"]
    rows = torch.from_numpy(data.trajectory(1).observations)
    (front, wrist), numbers = split_rows(space.streams, rows)
    np.testing.assert_array_equal(front.numpy(), episode["front"][:-1].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(wrist.numpy(), episode["wrist"][:-1])
    one_hot = np.eye(3, dtype=np.float32)[episode["gripper"][:-1]]
    np.testing.assert_array_equal(numbers.numpy(), np.concatenate([one_hot, episode["joints"][:-1]], axis=1))
    np.testing.assert_array_equal(numbers_of(space, rows.numpy()), numbers.numpy())


def test_a_store_holds_the_same_rows_and_the_same_fingerprint(tmp_path):
    data = robot_data(3)
    write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(3)))
    stored = open_trajectories(f"rlt:{tmp_path / 'store'}")
    np.testing.assert_array_equal(stored.observations, data.observations)
    assert stored.fingerprint == data.fingerprint
    assert stored.spec.observation_space == data.spec.observation_space
    assert not stored.summary.findings


def test_numbers_are_normalized_by_their_statistics_and_pictures_stay_bytes():
    data = robot_data(6)
    policy = untrained_policy(data)
    space = data.spec.observation_space
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 5, torch.device("cpu"))
    states = gatherer.gather(WindowIndex(np.arange(0, 48, 8), np.arange(6))).states
    assert states.dtype == torch.uint8
    pictures, numbers = split_rows(space.streams, states)
    recorded = data.observations.reshape(6, 8, -1)[:, :5]
    raw_pictures, _ = split_rows(space.streams, torch.from_numpy(recorded))
    assert all(torch.equal(one, other) for one, other in zip(pictures, raw_pictures, strict=True))
    raw = numbers_of(space, data.observations)
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(numbers.numpy(), expected.reshape(6, 8, -1)[:, :5], atol=1e-3)


def test_the_token_is_the_sum_of_the_tokens_of_every_part():
    data = robot_data(2)
    model = untrained_policy(data).model
    rows = torch.from_numpy(data.observations[:6]).view(2, 3, -1)
    encoder = model.embed_state
    (front, wrist), numbers = split_rows(data.spec.observation_space.streams, rows)
    expected = encoder.pictures[0](front) + encoder.pictures[1](wrist) + encoder.numbers(numbers)
    torch.testing.assert_close(encoder(rows), expected)


ENTRIES = {
    "sum": {},
    "tokens": {"stream_entry": "tokens"},
    "tokens, return added": {"stream_entry": "tokens", "condition_entry": "added"},
    "tokens, impala": {"stream_entry": "tokens", "state_encoder": "impala"},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_policy_acts_as_it_predicts_on_windows_alone_and_among_others_and_after_a_restart(entry):
    data = robot_data(3)
    policy = untrained_policy(data, model=ENTRIES[entry])
    episode = robot_episodes(3)[2]
    context = policy.spec.context_length
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, context, torch.device("cpu"))
    target = float(data.episode_returns[2])
    session = policy.session(target)
    batch = policy.sessions([target, 1.0], [0, 1])
    for t in range(8):
        observation = {name: values[t] for name, values in episode["observations"].items()}
        session = policy.restore(json.loads(json.dumps(session.state())))
        _, info = session.act(observation, return_info=True)
        both = {name: np.stack([values[t], values[0]]) for name, values in episode["observations"].items()}
        _, infos = batch.act([0, 1], both, return_info=True)
        assert infos[0]["action_probabilities"] == info["action_probabilities"]
        session.observe(episode["rewards"][t], action=episode["actions"][t])
        batch.observe([0, 1], [episode["rewards"][t], 0.0], [episode["actions"][t], None])
        start = max(0, t + 1 - context)
        window = gatherer.gather(WindowIndex(np.array([16 + start]), np.array([2])))
        with torch.inference_mode():
            expected = policy.model.predict_actions(*window.inputs)[0, t - start].softmax(-1)
        np.testing.assert_allclose(info["action_probabilities"], expected.numpy(), atol=1e-5)


def test_every_part_can_have_a_token_of_its_own():
    data = robot_data(2)
    model = untrained_policy(data, model={"stream_entry": "tokens"}).model
    assert model.config.tokens_per_timestep == 5  # return, two cameras, numbers, action
    rows = torch.from_numpy(data.observations[:6]).view(2, 3, -1)
    encoder = model.embed_state
    (front, wrist), numbers = split_rows(data.spec.observation_space.streams, rows)
    parts = [encoder.pictures[0](front), encoder.pictures[1](wrist), encoder.numbers(numbers)]
    torch.testing.assert_close(encoder(rows), torch.stack(parts, dim=2))
    actions = torch.zeros(2, 3, dtype=torch.int64)
    timesteps = torch.arange(3).expand(2, 3)
    tokens = model.embed(rows, actions, torch.zeros(2, 3, 1), timesteps).tokens.unflatten(1, (3, 5))
    time = model.embed_timestep(timesteps)
    for place, part in enumerate(parts, start=1):
        torch.testing.assert_close(tokens[:, :, place], model.embed_ln(part + time))


def test_a_sliding_window_sees_every_part_of_the_last_steps_alone():
    """The cache computes what the whole window does, and a part of an earlier step changes later actions."""
    data = robot_data(3)
    policy = untrained_policy(data, model={"stream_entry": "tokens", "attention": "sliding_window", "n_layer": 1})
    episode = robot_episodes(3)[2]["observations"]

    def play(changed=None):
        session = policy.session(3.0)
        results = []
        for t in range(8):
            observation = {name: values[t].copy() for name, values in episode.items()}
            if t == 2 and changed:
                observation[changed] = observation[changed] * 0 + 1
            _, info = session.act(observation, return_info=True)
            session.observe(1.0, action=0)
            results.append(info["action_probabilities"])
        return results

    plain = play()
    for name in PARTS:
        other = play(name)
        assert other[:2] == plain[:2]
        assert other[2] != plain[2]
        assert other[7] == plain[7]  # one layer with a span of five steps


def test_training_uses_the_cameras_and_the_numbers(tmp_path):
    """A third of the steps is told by a camera only, the others by a number only: either alone earns 5.3 of 8."""
    config = tiny_config(tmp_path / "run", model={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    config.model.hidden_size = 32
    config.training.train_steps = 300
    config.training.batch_size = 32
    config.training.learning_rate = 3e-3
    config.training.checkpoint_every = 300
    config.windows.context_length = 2
    folder = train(config, dataset=robot_data(150, skill=0.95))
    report = evaluate(load_policy(folder), env_id=ROBOT, target_returns=[8.0], num_episodes=12)
    assert report.targets[0].mean > 6.3


def test_parts_can_be_left_out_and_a_single_camera_is_an_image():
    episodes = robot_episodes(2)
    environment = TwoCameras()
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    wrist = TrajectoryDataset.from_episodes(episodes, **spaces, observe=["wrist"])
    assert wrist.observations.shape[1:] == (1, 36, 36)
    cameras = TrajectoryDataset.from_episodes(episodes, **spaces, observe=["wrist", "front"])
    assert cameras.spec.observation_space.streams.shapes == ((3, 40, 38), (1, 36, 36))
    policy = untrained_policy(cameras)
    assert policy.normalizer.observation_mean is None
    session = policy.session(3.0)
    session.act({name: values[0] for name, values in episodes[0]["observations"].items()})


def test_a_number_that_is_not_finite_is_found_in_data_and_refused_live():
    episodes = robot_episodes(2)
    episodes[1]["observations"]["joints"][3, 2] = np.nan
    environment = TwoCameras()
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    with pytest.raises(RLTransformerError, match="episode 1, step 3, feature 5, observations: is NaN"):
        TrajectoryDataset.from_episodes(episodes, **spaces)
    session = untrained_policy(robot_data(2)).session(3.0)
    observation = {name: values[3] for name, values in episodes[1]["observations"].items()}
    with pytest.raises(RLTransformerError, match="feature 5 of the observation is nan"):
        session.act(observation)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model": {"frame_stack": 4}}, "a single image"),
        ({"training": {"image_shift": 2}}, "a single image"),
        ({"model": {"arch": "behavior_cloning", "conditions": []}}, "takes vectors"),
        ({"policy": {"support_size": 100}}, "not compared"),
    ],
)
def test_options_for_a_single_image_or_a_vector_are_refused(options, problem):
    with pytest.raises(RLTransformerError, match=problem):
        untrained_policy(robot_data(2), **options)


def test_a_part_of_very_many_values_beside_a_picture_is_refused_with_what_to_observe():
    space = gym.spaces.Dict({"item": gym.spaces.Discrete(5000), "wrist": PARTS["wrist"]})
    columns = {"item": np.zeros(3, np.int64), "wrist": np.zeros((3, 1, 36, 36), np.uint8)}
    episode = {"observations": columns, "actions": [0, 1], "rewards": [0.0, 1.0], "terminated": True}
    with pytest.raises(RLTransformerError, match="more than 1024 values next to the image wrist") as error:
        TrajectoryDataset.from_episodes([episode], observation_space=space, action_space=gym.spaces.Discrete(2))
    assert "wrist" in error.value.fix


def test_the_dataset_of_the_tutorials_gives_the_sizes_of_a_model_for_them():
    options = Dataset(robot_data(2), context_length=3).model_options()
    assert options["streams"] == ((3, 40, 38), (1, 36, 36), (7,))
    assert Space.from_dict(robot_data(1).spec.observation_space.to_dict()).streams.numbers == 7
