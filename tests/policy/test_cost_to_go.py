"""Claims about two conditions, a return and a cost: one unit from the data to the report, and both are saved and heeded."""

import json

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.training.metrics import read_metrics
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import TOLL, TollEnv, tiny_config, toll_data, untrained_policy

BOTH = ["return_to_go", "cost_to_go"]
ORDERS = [BOTH, BOTH[::-1]]
ENTRIES = [{}, {"condition_entry": "added"}, {"attention": "sliding_window"}]


def costly(data, conditions=BOTH, **model):
    """A policy with random weights on both conditions; returns are divided by 7, costs by 100."""
    return untrained_policy(data, model={"conditions": conditions, "max_ep_len": 9, **model}, returns={"scale": 7.0})


def run_by_hand(policy, target_return, target_cost, seed):
    """Return the rewards and costs of one episode, session and environment alone."""
    environment = TollEnv()
    session = policy.session(target_return, seed=seed, targets={"cost_to_go": target_cost})
    observation, _ = environment.reset(seed=seed)
    rewards = []
    costs = []
    terminated = False
    while not terminated:
        observation, reward, terminated, _, info = environment.step(session.act(observation))
        session.observe(reward, cost=info["cost"])
        rewards.append(reward)
        costs.append(info["cost"])
    return rewards, costs


# T-30: one unit for cost


@pytest.mark.parametrize("conditions", ORDERS, ids=str)
@pytest.mark.parametrize("model", ENTRIES, ids=str)
def test_sessions_feed_the_model_the_costs_that_training_windows_hold(conditions, model):
    """Data column, window, live session: the same numbers at every step, and none but the model's is scaled."""
    data = toll_data(3)
    policy = costly(data, conditions, **model)
    assert {condition.name: condition.scale for condition in policy.spec.conditions} == {
        "return_to_go": 7.0,
        "cost_to_go": 100.0,
    }
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 12, policy.device)
    place = {name: i for i, name in enumerate(conditions)}
    for episode in range(3):
        logged = data.trajectory(episode)
        rewards = logged.rewards
        costs = logged.extras["cost"]
        window = gatherer.gather(WindowIndex(data.offsets[episode : episode + 1], np.array([episode])))
        session = policy.session(rewards.sum(), targets={"cost_to_go": costs.sum()})
        history = session._batch._history
        for t in range(12):
            session.act(logged.observations[t])
            newest = history.columns["conditions"][t % history.length]
            torch.testing.assert_close(newest, window.conditions[0, t], atol=1e-5, rtol=1e-5)
            assert newest[place["cost_to_go"]].item() == pytest.approx(costs[t:].sum() / 100, abs=1e-5)
            assert newest[place["return_to_go"]].item() == pytest.approx(rewards[t:].sum() / 7, abs=1e-5)
            assert session.conditions["cost_to_go"] == pytest.approx(costs[t:].sum())  # not scaled
            session.observe(rewards[t], cost=costs[t])
        assert session.conditions == {
            "return_to_go": pytest.approx(0, abs=1e-6),
            "cost_to_go": pytest.approx(0, abs=1e-6),
        }


def test_the_session_subtracts_raw_costs_from_a_raw_target():
    session = costly(toll_data(3)).session(6.0, targets={"cost_to_go": 90.0})
    assert session.conditions == {"return_to_go": 6.0, "cost_to_go": 90.0}
    for reward, cost in ((0.5, 20.0), (0.25, 15.5)):
        session.act(np.zeros(2))
        session.observe(reward, cost=cost)
    assert session.conditions == {"return_to_go": 5.25, "cost_to_go": 54.5}
    assert session.return_to_go == 5.25
    session.act(np.zeros(2))
    session.observe(0.0, cost=60.0)
    assert session.conditions["cost_to_go"] == -5.5  # overspent, and not clipped


def test_targets_ranges_and_warnings_are_in_the_unit_of_the_data():
    data = toll_data()
    policy = costly(data)
    totals = np.add.reduceat(data.columns["cost"], data.offsets[:-1])
    low, high = policy.spec.target_ranges["cost_to_go"]
    assert (low, high) == (pytest.approx(totals.min()), pytest.approx(totals.max()))
    assert high > 100  # larger than anything that was divided by the scale
    assert policy.target_warning([6.0], {"cost_to_go": (low + high) / 2}) is None
    warning = policy.target_warning([6.0], {"cost_to_go": 2.0})
    assert "target cost_to_go 2 is outside" in warning
    assert f"[{low:g}, {high:g}]" in warning


@pytest.mark.parametrize("processes", [1, 2])
def test_reports_hold_targets_and_sums_of_raw_costs(processes):
    policy = costly(toll_data())
    report = evaluate(
        policy, env_id=TOLL, target_returns=[4.0, 8.0], targets={"cost_to_go": 90.0}, num_episodes=3, seed=5
    )
    for target in report.targets:
        by_hand = [run_by_hand(policy, target.target_return, 90.0, seed) for seed in (5, 6, 7)]
        assert target.targets == {"cost_to_go": 90.0}
        assert target.episode_outcomes == {"cost": pytest.approx([sum(costs) for _, costs in by_hand], rel=1e-6)}
        assert target.episode_returns == pytest.approx([sum(rewards) for rewards, _ in by_hand], rel=1e-6)
        assert max(target.episode_outcomes["cost"]) > 20  # more than one step's, in the environment's unit
    mean = np.mean(report.targets[0].episode_outcomes["cost"])
    assert f"mean cost {mean:.4g} (target cost_to_go 90)" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["targets"][0]["targets"] == {"cost_to_go": 90.0}
    episodes = run_episodes(
        policy, TOLL, [4.0] * 3, [5, 6, 7], targets={"cost_to_go": 90.0}, processes=processes, max_live=2
    )
    costs = [episode.outcomes["cost"] for episode in episodes]
    assert costs == pytest.approx(report.targets[0].episode_outcomes["cost"], rel=1e-6)


def test_evaluation_while_training_writes_raw_costs(tmp_path):
    evaluation = {
        "env_id": TOLL,
        "target_returns": [4.0],
        "targets": {"cost_to_go": 90.0},
        "num_episodes": 2,
        "every": 100,
    }
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH}, evaluation=evaluation)
    folder = train(config, dataset=toll_data())
    (target,) = json.loads((folder / "report.json").read_text())["targets"]
    (row,) = [row for row in read_metrics(folder) if "cost_at_4" in row]
    assert row["cost_at_4"] == pytest.approx(np.mean(target["episode_outcomes"]["cost"]))
    again = evaluate(
        load_policy(folder), env_id=TOLL, target_returns=[4.0], targets={"cost_to_go": 90.0}, num_episodes=2
    )
    assert again.targets[0].episode_outcomes == target["episode_outcomes"]


def test_episodes_that_a_policy_recorded_carry_their_costs_and_can_be_learned_from(tmp_path):
    policy = costly(toll_data(3))
    options = {"seed": 5, "policy": policy, "target": 6.0}
    recorded = record_episodes(make_environment(TOLL), TOLL, 3, **options, targets={"cost_to_go": 90.0})
    data = TrajectoryDataset.in_memory(*recorded)
    for i, seed in enumerate((5, 6, 7)):
        rewards, costs = run_by_hand(policy, 6.0, 90.0, seed)
        assert data.trajectory(i).extras["cost"] == pytest.approx(costs, rel=1e-6)
        assert data.trajectory(i).rewards == pytest.approx(rewards, rel=1e-6)
    load_policy(train(tiny_config(tmp_path / "run", model={"conditions": BOTH}), dataset=data))
    with pytest.raises(RLTransformerError, match="no target for cost_to_go is given"):
        record_episodes(make_environment(TOLL), TOLL, 3, **options)


def test_the_command_records_what_the_function_records(tmp_path):
    policy = costly(toll_data(3))
    policy.save(tmp_path / "p")
    collect = ["collect", TOLL, "--policy", str(tmp_path / "p"), "--num-episodes", "2", "--seed", "5"]
    targets = ["--target-return", "6", "--target", "cost_to_go=90"]
    assert main([*collect, *targets, "--output", str(tmp_path / "store")]) == 0
    written = open_trajectories(f"rlt:{tmp_path / 'store'}")
    options = {"seed": 5, "policy": policy, "target": 6.0, "targets": {"cost_to_go": 90.0}}
    expected = TrajectoryDataset.in_memory(*record_episodes(make_environment(TOLL), TOLL, 2, **options))
    np.testing.assert_array_equal(written.columns["cost"], expected.columns["cost"])
    np.testing.assert_array_equal(written.actions, expected.actions)


# T-27: everything that is learned is saved and moved


@pytest.mark.parametrize("conditions", ORDERS, ids=str)
@pytest.mark.parametrize("model", ENTRIES, ids=str)
def test_a_saved_policy_acts_as_the_one_that_was_saved(conditions, model, tmp_path):
    policy = costly(toll_data(3), conditions, **model)
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.spec == policy.spec
    assert loaded.content_hash == policy.content_hash
    session = policy.session(6.0, targets={"cost_to_go": 90.0})
    again = loaded.session(6.0, targets={"cost_to_go": 90.0})
    for t in range(12):
        assert session.act(np.full(2, t)).tolist() == again.act(np.full(2, t)).tolist()
        session.observe(0.5, cost=7.0)
        again.observe(0.5, cost=7.0)


def test_the_embedding_of_every_condition_is_a_parameter_that_is_saved_and_moved(tmp_path):
    policy = costly(toll_data(3))
    names = {"embed_return.weight", "embed_conditions.cost_to_go.weight", "embed_conditions.cost_to_go.bias"}
    assert names <= set(policy.model.state_dict())
    assert names <= set(dict(policy.model.named_parameters()))
    assert {f"model.{name}" for name in names} <= set(policy.tensors())
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    for name in names:
        assert torch.equal(loaded.model.state_dict()[name], policy.model.state_dict()[name])
    moved = costly(toll_data(3)).model.to("meta")
    assert {tensor.device.type for tensor in [*moved.parameters(), *moved.buffers()]} == {"meta"}
    # A tensor that is no parameter or buffer would have stayed behind, and would fail here.
    given = [torch.zeros(2, 3, size, device="meta") for size in (2, 2, 2)]
    timesteps = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert moved.predict_actions(*given, timesteps).device.type == "meta"


def test_forgetting_the_embedding_of_a_condition_would_be_noticed(tmp_path):
    """The control: with another embedding the loaded policy would act differently."""
    policy = costly(toll_data(3))
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    torch.nn.init.normal_(loaded.model.embed_conditions["cost_to_go"].weight)
    actions = [p.session(6.0, targets={"cost_to_go": 90.0}).act(np.zeros(2)) for p in (policy, loaded)]
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


def test_the_embedding_of_every_condition_is_trained(tmp_path):
    data = toll_data()
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH})
    initial = assemble_run(config, data).policy.model.state_dict()
    trained = load_policy(train(config, dataset=data)).model.state_dict()
    for name in ("embed_return.weight", "embed_conditions.cost_to_go.weight"):
        assert not torch.equal(trained[name], initial[name])


@pytest.mark.parametrize("conditions", ORDERS, ids=str)
def test_a_generated_return_leaves_the_target_cost_alone(conditions, tmp_path):
    """The return model sets the return-to-go at every step, wherever it stands among the conditions."""
    options = {"model": {"conditions": conditions}, "policy": {"target": "generated"}}
    policy = load_policy(train(tiny_config(tmp_path / "run", **options), dataset=toll_data()))
    scales = {condition.name: condition.scale for condition in policy.spec.conditions}
    session = policy.session(targets={"cost_to_go": 90.0})
    for t in range(3):
        session.act(np.zeros(2))
        values = session.conditions
        assert values["cost_to_go"] == 90.0 - 20.0 * t
        chosen = values["return_to_go"] / scales["return_to_go"]
        assert (policy.return_model.values - chosen).abs().min() < 1e-6
        newest = session._batch._history.columns["conditions"][t]
        assert newest.tolist() == pytest.approx([values[name] / scales[name] for name in conditions], rel=1e-6)
        session.observe(0.5, cost=20.0)


# Learning


def test_return_and_cost_follow_their_own_targets(tmp_path):
    """Asking for less cost gets less cost and as much return; asking for less return the other way round."""
    config = tiny_config(
        tmp_path / "run",
        model={"conditions": BOTH, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0},
        training={
            "train_steps": 600,
            "warmup_steps": 20,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "checkpoint_every": 600,
        },
    )
    policy = load_policy(train(config, dataset=toll_data(200)))
    for cost in (70.0, 170.0):
        report = evaluate(policy, env_id=TOLL, target_returns=[4.0, 8.0], targets={"cost_to_go": cost}, num_episodes=10)
        assert [t.mean for t in report.targets] == pytest.approx([4, 8], abs=0.8)
        assert [np.mean(t.episode_outcomes["cost"]) for t in report.targets] == pytest.approx([cost] * 2, abs=16)
