"""Claims about return models: what they see, what they learn, and what is done with it."""

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, load_policy, train, training_run
from rl_transformer.config import RunConfig
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.models.return_model import AFTER_ACTION, BEFORE_ACTION, ReturnModel, return_bins, select_return
from rl_transformer.training import return_model as module
from rl_transformer.training.return_model import predicted_returns, return_loss
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gathering import ConditionColumn, WindowGatherer
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowIndex, WindowSampler
from tests.toys import point_data, tiny_config

CONFIG = DecisionTransformerConfig(state_dim=2, act_dim=1, hidden_size=16, n_layer=2, max_ep_len=12)


def return_model(bins=7, low=-1.0, high=2.0) -> ReturnModel:
    torch.manual_seed(0)
    model = ReturnModel(CONFIG, low=low, high=high, num_bins=bins).eval()
    for parameter in model.parameters():  # large enough for what must not be seen to show
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(length=5):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, length, 2, generator=generator)
    actions = torch.randn(3, length, 1, generator=generator)
    return states, actions, torch.arange(length).expand(3, length)


@pytest.mark.parametrize(("field", "seen_before", "seen_after"), [(0, True, True), (1, False, True)])
def test_a_prediction_sees_its_own_observation_and_only_afterwards_its_action(field, seen_before, seen_after):
    model = return_model()
    given = inputs()
    before = model(*given)
    changed = [x.clone() for x in given]
    changed[field][:, 2] += 1
    after = model(*changed)
    assert torch.equal(before[:, :2], after[:, :2])  # nothing of the past sees it
    assert torch.equal(before[:, 2, BEFORE_ACTION], after[:, 2, BEFORE_ACTION]) != seen_before
    assert torch.equal(before[:, 2, AFTER_ACTION], after[:, 2, AFTER_ACTION]) != seen_after
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_acting_computes_the_same_distribution_as_the_whole_window():
    model = return_model()
    given = inputs()
    for at in range(5):
        assert torch.allclose(model.before_action(*given, at=at), model(*given)[:, at, BEFORE_ACTION], atol=1e-6)


def test_predictions_are_distributions_and_soft_bins_keep_the_mean():
    model = return_model()
    assert torch.allclose(model(*inputs()).exp().sum(-1), torch.ones(3, 5, 2), atol=1e-5)
    returns = torch.tensor([-1.0, -0.3, 0.0, 0.123, 1.99, 2.0])
    soft = model.soft_bins(returns)
    assert torch.allclose(soft @ model.values, returns, atol=1e-6)
    assert (soft >= 0).all()
    assert ((soft > 1e-6).sum(-1) <= 2).all()
    assert torch.allclose(soft.sum(-1), torch.ones(6))


def test_the_loss_equals_a_naive_loop_and_leaves_padding_out():
    data = point_data(3)
    gatherer = gatherer_of(data, length=8)
    batch = gatherer.gather(WindowIndex(np.array([0, 20]), np.array([0, 1])))
    assert not batch.valid_mask.all()
    model = return_model(low=0.0, high=12.0)
    log_probabilities = model(batch.states, batch.actions, batch.timesteps)
    expected = []
    for row in range(2):
        for t in range(8):
            if batch.valid_mask[row, t]:
                target = model.soft_bins(batch.conditions[row, t, 0])
                expected += [-(target * log_probabilities[row, t, when]).sum() for when in (0, 1)]
    assert torch.allclose(return_loss(model, batch), torch.stack(expected).mean(), atol=1e-5)


def gatherer_of(data, *, length):
    return WindowGatherer(
        data,
        conditions=[ConditionColumn(data.returns_to_go, 1.0)],
        window_length=length,
        max_timesteps=12,
        normalizer=Normalizer.from_data(data.spec, data.statistics, action_tanh=True),
    )


@pytest.mark.parametrize("length", [1, 5, 12, 20])
def test_every_step_is_predicted_from_as_much_of_its_history_as_a_window_holds(length):
    data = point_data(3)
    model = return_model()
    found = predicted_returns(model, gatherer_of(data, length=length), data.offsets)
    for row in range(data.num_steps):
        episode = int(np.searchsorted(data.offsets, row, side="right")) - 1
        start = max(int(data.offsets[episode]), row - length + 1)
        batch = gatherer_of(data, length=length).gather(WindowIndex(np.array([start]), np.array([episode])))
        log_probabilities = model(batch.states, batch.actions, batch.timesteps)[0, row - start, AFTER_ACTION]
        assert found[row] == pytest.approx(model.expected(log_probabilities).item(), abs=1e-5)


def test_the_prior_prefers_good_returns_among_those_that_are_possible():
    log_probabilities = torch.tensor([[0.9, 0.09, 0.01 - 1e-4, 1e-4]]).log()
    assert select_return(log_probabilities, 0.0, 0.0).item() == 0
    assert select_return(log_probabilities, 30.0, 0.0).item() == 3
    assert select_return(log_probabilities, 30.0, 0.001).item() == 2
    assert select_return(log_probabilities, 30.0, 0.95).item() == 0  # the likeliest is always possible


def test_the_prior_is_that_of_the_papers_shortest_paths():
    probabilities = torch.rand(10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    steps = torch.arange(10, 0, -1)  # bins from -10 to -1
    expected = (probabilities * (10 + 1 - steps) ** 10.0).argmax()
    assert select_return(probabilities.log()[None], 10.0, 0.0).item() == expected


def lottery(num_episodes=400, seed=0) -> TrajectoryDataset:
    """One step: action 0 earns +5 or -15, action 1 earns +1."""
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(num_episodes):
        action = int(random.integers(2))
        reward = 1.0 if action else float(random.choice([5.0, -15.0]))
        episodes.append(
            {"observations": np.zeros((1, 1)), "actions": [action], "rewards": [reward], "terminated": True}
        )
    return TrajectoryDataset.from_episodes(episodes, source="lottery")


def test_expected_labels_do_not_ask_for_luck(tmp_path):
    options = {
        "model": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "windows": {"context_length": 1},
        "training": {"train_steps": 300, "batch_size": 64, "learning_rate": 3e-3},
    }
    data = lottery()
    chosen = {}
    for label in ("realized", "expected"):
        config = tiny_config(
            tmp_path / label, **options, returns={"label": label, **({"bins": 21} if label == "expected" else {})}
        )
        policy = load_policy(train(config, dataset=data))
        chosen[label] = int(policy.session(5.0).act(np.zeros(1, np.float32)))
        if label == "expected":
            # The suggested target can be reached: it is the return that the best action is expected to bring.
            assert max(policy.spec.suggested_targets) == pytest.approx(1.0, abs=0.5)
            best = max(policy.spec.suggested_targets)
            assert int(policy.session(best).act(np.zeros(1, np.float32))) == 1
    assert chosen["realized"] == 0


def lucky_episodes(count, seed=0):
    """One step, eight numbers that say nothing, and a reward that is luck alone."""
    random = np.random.default_rng(seed)
    return TrajectoryDataset.from_episodes(
        [
            {
                "observations": random.normal(size=(1, 8)),
                "actions": [int(random.integers(2))],
                "rewards": [float(random.choice([-1.0, 1.0]))],
                "terminated": True,
            }
            for _ in range(count)
        ],
        source="luck",
    )


def labels_of(folder, data, **returns):
    """Return the labels of a run with expected returns, after the training of its return models."""
    options = {
        "model": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        "windows": {"context_length": 1},
        "training": {"train_steps": 600, "batch_size": 64, "learning_rate": 3e-3, "checkpoint_every": 600},
    }
    run = assemble_run(tiny_config(folder, **options, returns={"label": "expected", "bins": 3, **returns}), data)
    run.fit_return_model()
    (column,) = run.windows.gatherer._conditions
    return run, column[:, 0].numpy()


@pytest.mark.parametrize("folds", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_labels_do_not_follow_luck_that_the_model_could_remember(folds, tmp_path):
    """With one fold the model labels what it learned from, and remembers it; with more it cannot."""
    data = lucky_episodes(300)
    luck = np.asarray(data.rewards)
    remembered, blind = (
        np.corrcoef(labels_of(tmp_path / str(count), data, folds=count)[1], luck)[0, 1] for count in (1, folds)
    )
    assert remembered > 0.5
    assert abs(blind) < 0.15


def test_every_episode_is_labelled_by_the_model_that_did_not_learn_from_it(tmp_path, monkeypatch):
    """Of five models: four folds of the training episodes, and the whole one for those that are held out."""
    seen = {}
    genuine = module.fit_return_model

    def remember(model, options, windows, dataset, returns, folder, group):
        genuine(model, options, windows, dataset, returns, folder, group)
        seen[folder.name] = (model, set(windows.sampler.trajectories.tolist()))

    monkeypatch.setattr(training_run, "fit_return_model", remember)
    data = point_data(11)
    config = tiny_config(
        tmp_path / "run", returns={"label": "expected", "folds": 4}, dataset={"validation_fraction": 0.2}
    )
    run = assemble_run(config, data)
    trained = set(run.windows.sampler.trajectories.tolist())
    run.fit_return_model()
    labels = run.windows.gatherer._conditions[0][:, 0].numpy()
    assert set(seen) == {"return_model", "fold-0", "fold-1", "fold-2", "fold-3"}
    assert seen["return_model"][1] == trained
    for episode in range(11):
        blind = [name for name, (_, learned) in seen.items() if episode not in learned]
        labelled_by = "return_model" if episode not in trained else next(n for n in blind if n != "return_model")
        assert episode not in trained or blind == [labelled_by]
        expected = predicted_returns(seen[labelled_by][0], run.windows.gatherer, data.offsets)
        rows = slice(data.offsets[episode], data.offsets[episode + 1])
        np.testing.assert_allclose(labels[rows], expected[rows] * config_scale(run), rtol=1e-5)


def config_scale(run):
    return run.data.returns.scale


def test_fewer_episodes_than_folds_are_refused_with_a_way_out(tmp_path):
    config = tiny_config(tmp_path / "run", returns={"label": "expected", "folds": 5})
    with pytest.raises(RLTransformerError, match="4 episodes cannot be labelled in 5 parts") as error:
        train(config, dataset=point_data(4))
    assert error.value.where == "returns.folds"


def test_a_run_of_an_earlier_version_keeps_its_one_fold():
    stored = RunConfig().to_dict()
    del stored["returns"]["folds"]
    assert RunConfig.from_dict(stored).returns.folds == 2
    stored["returns"]["label"] = "expected"
    assert RunConfig.from_dict(stored).returns.folds == 1


def test_generated_targets_come_from_the_return_model_and_the_caller_may_give_none(tmp_path):
    config = tiny_config(tmp_path / "run", policy={"target": "generated"}, returns={"bins": 11})
    policy = load_policy(train(config, dataset=point_data()))
    session = policy.session()
    observation = np.array([0.3, 0.0], np.float32)
    session.act(observation)
    state = policy.normalizer.normalize(torch.from_numpy(observation)[None])[None]
    filler = torch.zeros(1, 1, 1)
    log_probabilities = policy.return_model.before_action(state, filler, torch.zeros(1, 1, dtype=torch.int64), at=0)
    # 10 and 0.001 are the defaults of policy.prior_exponent and policy.prior_floor.
    chosen = select_return(log_probabilities, 10.0, 0.001)
    target = float(policy.return_model.values[chosen]) * policy.spec.returns.scale
    assert session.return_to_go == pytest.approx(target, abs=1e-5)
    with pytest.raises(RLTransformerError, match="generates its own"):
        policy.session(3.0)


def test_a_policy_with_a_return_model_survives_saving(tmp_path):
    config = tiny_config(tmp_path / "run", returns={"predict": True})
    policy = load_policy(train(config, dataset=point_data()))
    policy.save(tmp_path / "copy")
    again = load_policy(tmp_path / "copy")
    assert again.content_hash == policy.content_hash
    given = inputs()
    assert torch.equal(again.return_model(*given), policy.return_model(*given))


def test_predicting_returns_leaves_the_policy_as_it_is(tmp_path):
    plain = load_policy(train(tiny_config(tmp_path / "plain"), dataset=point_data()))
    with_return_model = load_policy(
        train(tiny_config(tmp_path / "with-return-model", returns={"predict": True}), dataset=point_data())
    )
    for (name, one), other in zip(
        plain.model.state_dict().items(), with_return_model.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_stopped_return_model_continues_where_it_was(tmp_path, monkeypatch):
    options = {"returns": {"label": "expected"}}
    whole = load_policy(train(tiny_config(tmp_path / "whole", **options), dataset=point_data()))
    genuine = EagerUpdates.run
    calls = []

    def fails_once(self, first, count):
        calls.append(first)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return genuine(self, first, count)

    monkeypatch.setattr(EagerUpdates, "run", fails_once)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(tmp_path / "cut", **options), dataset=point_data())
    resumed = load_policy(train(tiny_config(tmp_path / "cut", **options), resume=True, dataset=point_data()))
    assert calls[7] == 5  # from the checkpoint at 4
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_return_model_is_trained_on_steps_as_often_as_they_happened():
    data = point_data(50)
    balanced = WindowSampler(
        data.offsets, np.arange(50), seed=3, return_balance=1.0, episode_returns=data.episode_returns
    )
    plain = WindowSampler(data.offsets, np.arange(50), seed=3)
    assert np.array_equal(balanced.without_balance().draw(5, 64).rows, plain.draw(5, 64).rows)
    assert not np.array_equal(balanced.draw(5, 64).rows, plain.draw(5, 64).rows)


def test_equal_returns_are_nothing_to_predict():
    with pytest.raises(RLTransformerError, match="nothing to predict"):
        return_bins(np.ones(5), 11)
