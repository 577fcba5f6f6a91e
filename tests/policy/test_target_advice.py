"""Claims about the advised target: it follows from the start where starts matter, is no luck, and stays what it was."""

import json

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, load_policy, train
from rl_transformer.conditions import ReturnToGo
from rl_transformer.policy.advice import BEYOND, IN_RANGE, THIN, TargetAdvice, TargetTable
from rl_transformer.policy.support import empirical_quantiles
from rl_transformer.windows.normalization import Normalizer
from tests.toys import POINT, point_data, tiny_config


def one_step_data(returns, observations, actions=None):
    """Episodes of one step each."""
    return TrajectoryDataset.from_episodes(
        [
            {
                "observations": np.array([x, x], np.float32),
                "actions": np.array([[0.0 if actions is None else actions[i]]], np.float32),
                "rewards": np.array([r]),
                "terminated": True,
            }
            for i, (r, x) in enumerate(zip(returns, observations, strict=True))
        ]
    )


def advice_of(data, **options):
    normalizer = Normalizer.from_data(data.spec, data.statistics, action_tanh=False)
    return TargetAdvice.from_data(data, ReturnToGo(), np.arange(len(data)), normalizer, **options), normalizer


def table_of(advice, returns):
    quantiles = empirical_quantiles(returns)
    return TargetTable(advice, quantiles, (min(returns), max(returns)), quantiles[advice.level])


def test_a_start_that_explains_returns_is_used_and_one_that_does_not_is_not():
    random = np.random.default_rng(0)
    starts = random.normal(size=(400, 3))
    noise = random.normal(size=400)
    explained, normalizer = advice_of(one_step_data(5 * starts[:, 0] + noise, starts))
    assert explained.depends_on_start
    states = normalizer.normalize(torch.tensor([[1.0, 0, 0], [-1, 0, 0]])).numpy()
    high, low = explained.expectation(states)
    assert high - low == pytest.approx(10, abs=0.5)
    unexplained, _ = advice_of(one_step_data(noise, starts))
    assert not unexplained.depends_on_start
    assert unexplained.intercept == pytest.approx(noise.mean())


def test_luck_brings_the_advised_target_down_and_skill_does_not():
    """The same returns, once by the action and once by chance."""
    random = np.random.default_rng(0)
    returns = random.normal(size=1000)
    starts = random.normal(size=(1000, 2))
    skill, _ = advice_of(one_step_data(returns, starts, actions=returns))
    chance, _ = advice_of(one_step_data(returns, starts, actions=random.normal(size=1000)))
    assert skill.luck < 0.05
    assert chance.luck > 0.9
    assert table_of(skill, returns).advised == pytest.approx(np.quantile(returns, 0.99), abs=0.15)
    assert table_of(chance, returns).advised == pytest.approx(np.median(returns), abs=0.15)
    # Expected returns have the luck averaged out already.
    assert advice_of(one_step_data(returns, starts), expected=returns)[0].luck == 0


def test_rare_successes_are_what_is_advised():
    for share in (0.02, 0.004):
        returns = (np.arange(1000) < 1000 * share).astype(float)
        advice, _ = advice_of(one_step_data(returns, np.random.default_rng(0).normal(size=(1000, 2))))
        assert table_of(advice, returns).advised == 1.0


def test_labels_and_expectations_follow_from_shares():
    returns = np.arange(1, 1001).astype(float)
    advice = TargetAdvice(
        intercept=500.5, residuals=tuple(empirical_quantiles(returns - 500.5)), level=99, luck=0.5, least_share=0.01
    )
    table = table_of(advice, returns)
    rows = table.rows([500.0, 990.0, 995.0, 1000.0, 1001.0, 0.0])
    assert [row["label"] for row in rows] == [IN_RANGE, IN_RANGE, THIN, THIN, BEYOND, BEYOND]
    assert [row["share"] for row in rows] == pytest.approx([0.5, 0.01, 0.01, 0.01, 0.0, 1.0], abs=0.011)
    middle = table.quantiles.mean()
    assert rows[1]["expected"] == pytest.approx((middle + 990) / 2)
    assert rows[3]["expected"] == rows[4]["expected"] == pytest.approx((middle + 990) / 2)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A policy of data whose starts decide the return."""
    random = np.random.default_rng(0)
    episodes = []
    for _ in range(80):
        level = random.uniform(-1, 1)
        actions = random.uniform(-1, 1, (12, 1)).astype(np.float32)
        observations = np.concatenate([np.full((13, 1), level), random.normal(size=(13, 1))], axis=1)
        rewards = level + 0.1 * actions[:, 0]
        episodes.append({"observations": observations, "actions": actions, "rewards": rewards, "truncated": True})
    data = TrajectoryDataset.from_episodes(episodes)
    return load_policy(train(tiny_config(tmp_path_factory.mktemp("started") / "run"), dataset=data))


def test_a_session_without_target_chooses_it_at_its_first_observation_and_keeps_it(started):
    good, poor = np.array([0.8, 0.0]), np.array([-0.8, 0.0])
    assert started.spec.advice.depends_on_start
    for observation in (good, poor):
        session = started.session()
        _, info = session.act(observation, return_info=True)
        assert info["target"] == started.target_table(observation).advised
        assert info["target"] == pytest.approx(12 * observation[0], abs=2)
        session.observe(0.5)
        session.act(poor)
        assert session.return_to_go == pytest.approx(info["target"] - 0.5)
    batch = started.sessions([None, 3.0, None], [0, 1, 2])
    _, infos = batch.act([0, 1, 2], np.stack([good, good, poor]), return_info=True)
    assert [info["target"] for info in infos] == pytest.approx(
        [started.target_table(good).advised, 3.0, started.target_table(poor).advised]
    )
    batch.observe([0, 1, 2], [0.0, 0.0, 0.0])
    batch.reset([0], [None], [5])
    assert batch.act([0], poor[None], return_info=True)[1][0]["target"] == infos[2]["target"]


def test_the_choice_outlives_a_restart_before_and_after_it(started):
    good = np.array([0.8, 0.0])
    session = started.session()
    before = started.restore(json.loads(json.dumps(session.state())))
    for each in (session, before):
        each.act(good)
    after = started.restore(json.loads(json.dumps(session.state())))
    for each in (session, before, after):
        assert each.return_to_go == started.target_table(good).advised
    chosen = started.session()
    chosen.return_to_go = 3.0
    assert chosen.act(good, return_info=True)[1]["target"] == 3.0
    state = session.state()
    state["sessions"][0]["awaits_target"] = True  # it has acted
    with pytest.raises(RLTransformerError, match="awaits_target"):
        started.restore(state)


def test_the_advice_is_stored_without_rows_of_the_data(started, tmp_path):
    started.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.spec.advice == started.spec.advice
    values = json.loads((tmp_path / "p/policy.json").read_text())["advice"]
    assert {name: np.size(value) for name, value in values.items()} == {
        "coefficients": 2, "fixed": 1, "intercept": 1, "least_share": 1, "level": 1, "luck": 1, "residuals": 101,
    }  # fmt: skip


def test_the_training_episodes_alone_count(tmp_path):
    data = point_data()
    run = train(tiny_config(tmp_path / "run", dataset={"validation_fraction": 0.5}), dataset=data)
    spec = load_policy(run).spec
    assert spec.advice.least_share == 0.5  # ten of twenty


def test_an_evaluation_without_target_takes_the_advised_one_and_says_so(tmp_path, capsys):
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=point_data()))
    report = evaluate(policy, env_id=POINT, num_episodes=3)
    (only,) = report.targets
    assert only.target_return is None
    table = policy.target_table()
    if not policy.spec.advice.depends_on_start:
        assert only.episode_targets == [table.advised] * 3
    assert "advised" in str(report)
    assert "note: the advised target is" in str(report)
    # Targets that the options suggest stay what is evaluated and the default.
    options = {"policy": {"suggested_targets": [2.0, 5.0]}}
    configured = load_policy(train(tiny_config(tmp_path / "set", **options), dataset=point_data()))
    assert [t.target_return for t in evaluate(configured, env_id=POINT, num_episodes=1).targets] == [2.0, 5.0]
    assert configured.session().return_to_go == 5.0


def test_the_command_prints_what_the_file_holds_and_uses_evaluations(tmp_path, capsys):
    from rl_transformer.cli.main import main

    options = {"evaluation": {"env_id": POINT, "num_episodes": 2, "target_returns": [2.0, 6.0]}}
    run = train(tiny_config(tmp_path / "run", **options), dataset=point_data())
    assert main(["targets", str(run), "--json", str(tmp_path / "t.json")]) == 0
    written = json.loads((tmp_path / "t.json").read_text())
    out = capsys.readouterr().out
    assert "<- advised" in out
    assert written["advised"] in [row["target"] for row in written["targets"]]
    assert set(written["targets"][0]) == {"target", "share", "expected", "label", "expected_from"}
    report = json.loads((run / "report.json").read_text())
    assert report["target_advice"]["advised"] == written["advised"]
    means = {t["target_return"]: t["mean"] for t in report["targets"]}
    assert main(["targets", str(run), "--target-return", "2", "6", "4", "99", "--json", str(tmp_path / "u.json")]) == 0
    rows = json.loads((tmp_path / "u.json").read_text())["targets"]
    assert [row["expected"] for row in rows[:2]] == [means[2.0], means[6.0]]
    assert rows[2]["expected"] == pytest.approx((means[2.0] + means[6.0]) / 2)
    assert rows[3]["expected_from"] == "the training data"
    assert rows[3]["label"] == BEYOND
