"""Claims that only training can show: small tasks are learned, and target returns are reached."""

import numpy as np
import pytest

from rl_transformer import evaluate, load_policy, train
from rl_transformer.trajectories import Space, TrajectoryDataset
from tests.toys import POINT, point_data, tiny_config

MEMORY = {
    "training": {
        "train_steps": 700,
        "warmup_steps": 50,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "checkpoint_every": 700,
    },
    "model": {
        "hidden_size": 32,
        "n_head": 2,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "timestep_initializer_range": 0.02,
    },
}
LONGER = {"train_steps": 400, "warmup_steps": 20, "batch_size": 32, "learning_rate": 3e-3, "checkpoint_every": 400}


@pytest.mark.parametrize(
    "options",
    [{}, {"condition_entry": "added"}, {"attention": "sliding_window"}],
    ids=["published", "added", "sliding window"],
)
def test_a_higher_target_return_brings_a_higher_return(options, tmp_path):
    config = tiny_config(
        tmp_path / "run",
        training=LONGER,
        model={**options, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0},
    )
    policy = load_policy(train(config, dataset=point_data(200)))
    report = evaluate(policy, env_id=POINT, target_returns=[3.0, 6.0, 9.0], num_episodes=10)
    assert [t.mean for t in report.targets] == pytest.approx([3, 6, 9], abs=0.8)
    assert report.rank_correlation == 1


def test_cloning_gets_the_average_and_cloning_the_best_gets_more(tmp_path):
    means = {}
    for name, top in (("all", 1.0), ("best", 0.1)):
        config = tiny_config(
            tmp_path / name,
            training=LONGER,
            model={"arch": "behavior_cloning"},
            dataset={"top_fraction": top},
            windows={"context_length": 1},
        )
        means[name] = (
            evaluate(load_policy(train(config, dataset=point_data(200))), env_id=POINT, num_episodes=10).targets[0].mean
        )
    data = point_data(200).episode_returns
    assert means["all"] == pytest.approx(data.mean(), abs=1.0)
    assert means["best"] > np.quantile(data, 0.9) - 0.3 > means["all"] + 1


def memory_data(num_episodes=300, length=6):
    """The first observation says which last action earns the reward; later ones say nothing."""
    random = np.random.default_rng(0)
    episodes = []
    for _ in range(num_episodes):
        cue = random.integers(2)
        observations = np.zeros((length, 2), np.float32)
        observations[0, cue] = 1
        actions = np.zeros(length, np.int64)
        actions[-1] = random.integers(2)
        rewards = np.zeros(length)
        rewards[-1] = float(actions[-1] == cue)
        episodes.append({"observations": observations, "actions": actions, "rewards": rewards, "terminated": True})
    return TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(2))


@pytest.mark.parametrize(("context", "remembers"), [(6, True), (5, False)])
def test_a_cue_is_used_if_and_only_if_the_context_reaches_it(context, remembers, tmp_path):
    config = tiny_config(tmp_path / "run", **MEMORY, windows={"context_length": context})
    policy = load_policy(train(config, dataset=memory_data()))
    right = 0
    for cue in (0, 1):
        session = policy.session(1.0)
        for t in range(6):
            observation = np.zeros(2, np.float32)
            if t == 0:
                observation[cue] = 1
            action = session.act(observation)
            session.observe(0.0)
        right += action == cue
    assert right == (2 if remembers else 1)


def test_a_target_return_of_zero_is_reached_as_well_as_one_of_one(tmp_path):
    policy = load_policy(
        train(tiny_config(tmp_path / "run", **MEMORY, windows={"context_length": 6}), dataset=memory_data())
    )
    choices = {}
    for target in (0.0, 1.0):
        session = policy.session(target)
        for t in range(6):
            choices[target] = session.act(np.array([1.0, 0.0] if t == 0 else [0.0, 0.0]))
            session.observe(0.0)
    assert choices == {0.0: 1, 1.0: 0}


@pytest.mark.parametrize(("encoder", "image_shift"), [("auto", 0), ("auto", 4), ("impala", 0), ("impala", 4)])
def test_a_policy_learns_from_stacked_images(encoder, image_shift, tmp_path):
    """The picture's bright half says the action; the network must look at it."""
    random = np.random.default_rng(0)
    episodes = []
    for _ in range(60):
        answers = random.integers(0, 2, 4)
        pictures = np.zeros((4, 1, 36, 36), np.uint8)
        for t, answer in enumerate(answers):
            pictures[t, :, :, 18 * answer : 18 * (answer + 1)] = 200
        episodes.append({"observations": pictures, "actions": answers, "rewards": np.ones(4), "terminated": True})
    data = TrajectoryDataset.from_episodes(episodes, action_space=Space.discrete(2))
    training = LONGER | {"train_steps": 80, "learning_rate": 1e-3, "batch_size": 16, "image_shift": image_shift}
    model = {"frame_stack": 2, "state_encoder": encoder}
    config = tiny_config(tmp_path / "run", training=training, windows={"context_length": 2}, model=model)
    policy = load_policy(train(config, dataset=data))
    session = policy.session(4.0)
    right = 0
    for t in range(4):
        right += session.act(data.observations[t]) == data.actions[t]
        session.observe(1.0)
    assert right == 4
