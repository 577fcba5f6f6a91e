"""Claims: a run can start from an earlier policy's weights; what cannot be used is new, and said to be."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, train
from rl_transformer.policy.initial_policy import with_initial_policy
from tests.toys import point_data, tiny_config


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A trained policy on the point's data, shifted so that its statistics differ from those of other data."""
    config = tiny_config(tmp_path_factory.mktemp("earlier") / "run")
    config.training.train_steps = 3
    return train(config, dataset=point_data())


def started(earlier, folder, dataset, **options):
    config = tiny_config(folder)
    config.model.init_from = str(earlier)
    # So small a step that the weights are those that training began with.
    config.training.train_steps = 1
    config.training.learning_rate = 1e-12
    config.training.weight_decay = 0.0
    for name, value in options.items():
        config.set(name.replace("__", "."), value)
    return load_policy(train(config, dataset=dataset))


def other_data(num_features=2, num_actions=1):
    random = np.random.default_rng(5)
    episodes = []
    for _ in range(8):
        observations = random.normal(3, 2, size=(21, num_features)).astype(np.float32)
        actions = random.uniform(-1, 1, size=(20, num_actions)).astype(np.float32)
        episodes.append({"observations": observations, "actions": actions, "rewards": np.ones(20), "terminated": True})
    space = gym.spaces.Box(-1, 1, (num_actions,), np.float32)
    return TrajectoryDataset.from_episodes(episodes, action_space=space)


def same(a, b, name):
    return torch.allclose(a.model.state_dict()[name], b.model.state_dict()[name], atol=1e-9)


def test_weights_statistics_and_the_return_scale_are_those_of_the_earlier_policy(earlier, tmp_path):
    old = load_policy(earlier)
    new = started(earlier, tmp_path / "new", other_data())
    names = [name for name in old.model.state_dict() if name != "embed_timestep.weight"]
    assert all(same(old, new, name) for name in names)
    assert torch.equal(old.normalizer.observation_mean, new.normalizer.observation_mean)
    assert torch.equal(old.normalizer.observation_scale, new.normalizer.observation_scale)
    assert new.spec.returns.scale == old.spec.returns.scale


def test_timesteps_beyond_the_earlier_table_begin_as_its_last_row(earlier, tmp_path):
    before = load_policy(earlier).model.state_dict()["embed_timestep.weight"]
    table = started(earlier, tmp_path / "new", other_data()).model.state_dict()["embed_timestep.weight"]
    assert len(table) > len(before)
    assert torch.allclose(table[: len(before)], before, atol=1e-9)
    assert torch.allclose(table[len(before) :], before[-1].expand(len(table) - len(before), -1), atol=1e-9)


def test_refit_takes_the_statistics_of_the_new_data(earlier, tmp_path):
    old = load_policy(earlier)
    new = started(earlier, tmp_path / "new", other_data(), model__init_statistics="refit")
    assert same(old, new, "embed_state.weight")
    assert new.normalizer.observation_mean == pytest.approx(3, abs=0.3)
    assert new.spec.returns.scale == 10  # the data's returns are 20


def test_parts_of_other_sizes_are_new_and_named(earlier, tmp_path, capsys):
    old = load_policy(earlier)
    new = started(earlier, tmp_path / "new", other_data(num_features=5, num_actions=3))
    said = capsys.readouterr()
    assert same(old, new, "encoder.h.0.attn.c_attn.weight")
    for part in ("embed_state", "embed_action", "predict_action"):
        assert f"new weights: {part}" in said.out + said.err
    assert new.normalizer.observation_mean == pytest.approx(3, abs=0.3)


def categories(values):
    rows = {"user": [], "moment": [], "segment": [], "price": [], "paid": []}
    for user in range(6):
        for moment in range(5):
            rows["user"].append(user)
            rows["moment"].append(moment)
            rows["segment"].append(values[(user + moment) % len(values)])
            rows["price"].append(float(moment % 2))
            rows["paid"].append(1.0)
    return TrajectoryDataset.from_columns(
        rows, episode="user", order="moment", categorical=["segment"], action="price", reward="paid"
    )


def test_categories_of_the_same_number_and_another_meaning_are_not_taken_over(tmp_path, capsys):
    config = tiny_config(tmp_path / "first")
    config.model.action_tanh = False
    first = train(config, dataset=categories(["new", "old"]))
    options = {"model__action_tanh": False}
    same_meaning = started(first, tmp_path / "same", categories(["new", "old"]), **options)
    assert same(load_policy(first), same_meaning, "embed_state.weight")
    other_meaning = started(first, tmp_path / "other", categories(["gold", "silver"]), **options)
    assert not same(load_policy(first), other_meaning, "embed_state.weight")
    said = capsys.readouterr()
    assert "the observations differ" in said.out + said.err


def test_another_network_is_refused_with_the_options_that_work(earlier, tmp_path):
    config = tiny_config(tmp_path / "run")
    config.model.init_from = str(earlier)
    right = (config.model.hidden_size, config.model.n_layer)
    config.model.hidden_size *= 2
    config.model.n_layer += 1
    with pytest.raises(RLTransformerError) as refusal:
        with_initial_policy(config)
    assert f"--model.hidden_size {right[0]}" in refusal.value.fix
    assert f"--model.n_layer {right[1]}" in refusal.value.fix


def test_a_resumed_run_notices_that_the_policy_it_started_from_has_changed(earlier, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(earlier, copy)
    config = tiny_config(tmp_path / "run")
    config.model.init_from = str(copy)
    config.training.train_steps = 2
    train(config, dataset=other_data())
    other = tiny_config(tmp_path / "other")
    other.training.seed = 9
    train(other, dataset=point_data())
    shutil.rmtree(copy)
    shutil.copytree(tmp_path / "other", copy)
    config.training.train_steps = 4
    with pytest.raises(RLTransformerError, match="changed since the checkpoint"):
        train(config, dataset=other_data(), resume=True)
