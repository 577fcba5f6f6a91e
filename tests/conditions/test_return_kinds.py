"""Claims about returns of processes that never end: one definition in data, labels, statistics, sessions and reports."""

import json

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, RunConfig, TrajectoryDataset, evaluate, load_policy, train
from rl_transformer.conditions import ReturnToGo
from rl_transformer.evaluation.training_seeds import combine_seeds
from rl_transformer.policy.make_spec import make_policy_spec
from rl_transformer.trajectories import Space
from rl_transformer.windows.selection import select_data
from tests.toys import POINT, point_data, tiny_config, untrained_policy

KINDS = ["next:1", "next:3", "next:6", "next:7", "next:500", "discounted:0.9", "discounted:0.5"]


def logs(lengths=(1, 7, 12, 5, 3, 30), seed=0):
    """Pieces of a process without end, with rewards of very different size."""
    random = np.random.default_rng(seed)
    return TrajectoryDataset.from_episodes(
        [
            {
                "observations": random.normal(size=(length + 1, 2)).astype(np.float32),
                "actions": random.uniform(-1, 1, (length, 1)).astype(np.float32),
                "rewards": random.normal(size=length) * 10.0 ** random.integers(-2, 3, length),
                "truncated": True,
            }
            for length in lengths
        ]
    )


def naive(kind, rewards, clip=np.inf):
    """The definition, as a loop: the return-to-go at every step of one episode."""
    name, _, value = kind.partition(":")
    rewards = [min(max(float(reward), -clip), clip) for reward in rewards]
    values = []
    for t in range(len(rewards)):
        if name == "next":
            values.append(sum(rewards[t : t + int(value)]))
        else:
            values.append(sum(float(value) ** i * reward for i, reward in enumerate(rewards[t:])))
    return np.array(values)


def naive_steps(kind, data, episodes, clip=np.inf):
    return np.concatenate([naive(kind, data.trajectory(i).rewards, clip) for i in episodes])


@pytest.mark.parametrize("clip", [None, 0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_of_the_data_has_the_return_of_a_naive_loop(kind, clip):
    data = logs()
    returns = ReturnToGo(kind=kind, reward_clip=clip)
    limit = np.inf if clip is None else clip
    expected = naive_steps(kind, data, range(len(data)), limit)
    np.testing.assert_allclose(returns.of_steps(data.rewards, data.offsets), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(returns.column(data), expected, rtol=1e-6)
    means = [naive(kind, data.trajectory(i).rewards, limit).mean() for i in range(len(data))]
    np.testing.assert_allclose(returns.totals(data), means, rtol=1e-12)
    assert returns.of_episode(data.trajectory(5).rewards) == pytest.approx(means[5])


def test_small_rewards_after_a_huge_one_keep_their_digits():
    rewards = np.array([1e16, *np.full(9, 0.1)])
    values = ReturnToGo(kind="next:3").of_steps(rewards, np.array([0, 10]))
    np.testing.assert_allclose(values[1:8], 0.3, rtol=1e-12)


@pytest.mark.parametrize("kind", ["next:3", "discounted:0.9"])
def test_scale_targets_range_and_quantiles_are_of_the_steps_that_are_learned_from(kind):
    data = logs(tuple(range(3, 43)))
    config = tiny_config("unused", returns={"kind": kind, "reward_clip": 5.0}, dataset={"validation_fraction": 0.5})
    selected = select_data(data, config)
    spec = make_policy_spec(data, selected.returns, selected.split, config, {})
    values = naive_steps(kind, data, selected.split.train, 5.0)
    assert spec.returns.kind == kind
    assert spec.suggested_targets == pytest.approx(np.quantile(values, (0.25, 0.5, 0.75, 1.0)))
    assert spec.target_ranges["return_to_go"] == pytest.approx((values.min(), values.max()))
    assert spec.return_quantiles == pytest.approx(np.quantile(values, np.linspace(0, 1, 101), method="inverted_cdf"))
    assert spec.returns.scale == 10.0


def test_the_best_episodes_are_those_with_the_best_mean_over_their_steps():
    """A long dull recording has the largest sum; per next two rewards a short one is better."""
    rewards = {0: np.full(40, 1.0), 1: np.full(5, 3.0), 2: np.full(5, -1.0)}
    data = TrajectoryDataset.from_episodes(
        [
            {
                "observations": np.zeros((len(r) + 1, 1)),
                "actions": np.zeros((len(r), 1)),
                "rewards": r,
                "truncated": True,
            }
            for r in rewards.values()
        ]
    )
    options = {"dataset": {"min_return": 4.0}}
    assert select_data(data, tiny_config("x", returns={"kind": "next:2"}, **options)).split.train.tolist() == [1]
    assert select_data(data, tiny_config("x", **options)).split.train.tolist() == [0, 1]
    best = {"dataset": {"top_fraction": 0.1}}
    assert select_data(data, tiny_config("x", returns={"kind": "discounted:0.5"}, **best)).split.train.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "next:4"}, [10, 10, 10]),
        ({"kind": "discounted:0.5"}, [10, 19, 34]),
        ({"kind": "discounted:0.5", "update": "keep"}, [10, 10, 10]),
        ({"kind": "discounted:0.5", "reward_clip": 0.4}, [10, 19.2, 37.6]),
    ],
)
def test_a_live_target_changes_as_the_kind_says(options, expected):
    policy = untrained_policy(point_data(), returns=options)
    session = policy.session(10.0)
    batch = policy.sessions([10.0, 10.0], [0, 1])
    for value, reward in zip(expected, (0.5, 2.0, 0.0), strict=True):
        assert session.return_to_go == pytest.approx(value)
        assert batch.return_to_go == pytest.approx([value, value])
        session.act(np.zeros(2))
        batch.act([0, 1], np.zeros((2, 2)))
        session.observe(reward)
        batch.observe([0, 1], [reward, reward])
    # What the model reads of earlier steps is what the target was then.
    seen = batch._history.columns["conditions"][:3, 0] * policy.spec.returns.scale
    assert seen.tolist() == pytest.approx(expected)


def test_from_the_first_step_on_a_live_discounted_return_is_that_of_the_data():
    data = logs()
    policy = untrained_policy(data, returns={"kind": "discounted:0.9", "reward_clip": 5.0})
    trajectory = data.trajectory(2)
    column = naive("discounted:0.9", trajectory.rewards, 5.0)
    session = policy.session(float(column[0]))
    for value, reward in zip(column, trajectory.rewards, strict=True):
        assert session.return_to_go == pytest.approx(value, abs=1e-6)
        session.act(np.zeros(2))
        session.observe(float(reward))


def test_a_late_reward_that_would_have_to_be_discounted_is_refused_and_a_kept_target_takes_it():
    for options, is_refused in (({"kind": "discounted:0.9"}, True), ({"kind": "next:3"}, False)):
        session = untrained_policy(point_data(), returns=options).session(3.0)
        session.act(np.zeros(2))
        session.observe(None)
        assert session.return_to_go == 3.0
        if not is_refused:
            session.observe_late(1.0)
            assert session.return_to_go == 3.0
            continue
        with pytest.raises(RLTransformerError, match=r"discounted by its delay.*\n  fix: set return_to_go"):
            session.observe_late(1.0)


def test_a_discounted_target_that_runs_away_is_noted_once(capsys):
    session = untrained_policy(point_data(), returns={"kind": "discounted:0.5"}).session(1.0)

    def act_for_long():
        for _ in range(200):
            session.act(np.zeros(2))
            session.observe(0.0)

    with pytest.raises(
        RLTransformerError, match=r"model output is not finite|exceeds the range of float32\n.*diverges"
    ):
        act_for_long()
    assert capsys.readouterr().out.count("outside the training data's") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "next:3", "update": "keep"}, "the target of next:N is kept at every step"),
        *(({"kind": kind}, "is not a kind of return") for kind in ("next", "next:0", "next:2.5", "next:-1", "weekly")),
        *(
            ({"kind": kind}, "is not a kind of return")
            for kind in ("discounted:1", "discounted:0.0", "discounted:1.5", "")
        ),
    ],
)
def test_a_kind_that_does_not_exist_or_an_update_without_effect_is_refused(options, message):
    config = RunConfig()
    config.dataset.uri = config.output = "x"
    for name, value in options.items():
        config.set(f"returns.{name}", value)
    with pytest.raises(RLTransformerError, match=message) as caught:
        config.check()
    assert caught.value.fix


def test_reports_say_the_unit_and_give_what_was_achieved_in_it():
    policy = untrained_policy(point_data(), returns={"kind": "next:3"})
    report = evaluate(policy, env_id=POINT, target_returns=[1.0, 2.0, 3.0], num_episodes=3, max_live=2)
    (one, *_) = report.targets
    assert one.target_unit == "sum of the next 3 rewards, mean over the steps"
    # The same episode, step by step.
    environment = gym.make(POINT)
    observation, _ = environment.reset(seed=report.seed + 2)
    session = policy.session(1.0, seed=report.seed + 2)
    rewards = []
    is_over = False
    while not is_over:
        observation, reward, terminated, truncated, _ = environment.step(session.act(observation))
        session.observe(reward)
        rewards.append(reward)
        is_over = terminated or truncated
    assert one.episode_returns[2] == pytest.approx(sum(rewards))
    assert one.episode_achieved[2] == pytest.approx(naive("next:3", rewards).mean())
    assert one.achieved["mean"] == pytest.approx(np.mean(one.episode_achieved))
    text = str(report)
    assert "note: the unit of targets: sum of the next 3 rewards, mean over the steps" in text
    assert text.count("in the target's unit") == 3
    json.dumps(report.to_dict())
    both = combine_seeds({0: report, 1: report})
    assert both.targets[0].achieved["mean"] == pytest.approx(one.achieved["mean"])
    assert both.targets[0].achieved["interval_over"] == "training_seeds"
    assert len(both.targets[0].episode_achieved) == 6
    plain = evaluate(untrained_policy(point_data()), env_id=POINT, target_returns=[1.0], num_episodes=1).targets[0]
    assert (plain.target_unit, plain.achieved, plain.episode_achieved) == (None, None, [])


def test_expected_returns_are_suggested_over_steps_and_the_policy_keeps_the_kind(tmp_path, capsys):
    options = {"returns": {"kind": "next:3", "label": "expected"}, "evaluation": {"env_id": POINT, "num_episodes": 1}}
    policy = load_policy(train(tiny_config(tmp_path / "run", **options), dataset=logs((20,) * 10)))
    assert policy.spec.returns.kind == "next:3"
    assert policy.spec.conditions[0] == policy.spec.returns
    low, high = policy.spec.target_ranges["return_to_go"]
    data = naive_steps("next:3", logs((20,) * 10), range(10))
    assert data.min() <= low < high <= data.max()
    out = capsys.readouterr().out
    assert "returns (sum of the next 3 rewards, mean over the steps)" in out
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {name.partition("_at_")[0] for name in row if "_at_" in name} == {"return", "achieved"}


def test_a_recording_that_is_cut_too_soon_is_noted():
    for kind, lengths, is_noted in (("next:3", (4,), True), ("next:3", (40,), False), ("discounted:0.9", (40,), True)):
        data = logs(lengths * 3)
        note = ReturnToGo(kind=kind).cut_warning(data, np.arange(3))
        assert (note is not None) == is_noted
    assert ReturnToGo().cut_warning(data, np.arange(3)) is None


def shifts(num_pieces=150, seed=0):
    """A process without end: who works next is better or worse at saying what the observation shows. Cut anywhere."""
    random = np.random.default_rng(seed)
    skill = np.repeat(random.uniform(size=400), 40)
    shown = random.integers(0, 2, len(skill))
    right = random.random(len(skill)) < skill
    pieces = []
    for _ in range(num_pieces):
        length = int(np.exp(random.uniform(np.log(20), np.log(400))))
        start = int(random.integers(0, len(skill) - length - 1))
        rows = slice(start, start + length)
        pieces.append(
            {
                "observations": shown[start : start + length + 1, None].astype(np.float32),
                "actions": np.where(right[rows], shown[rows], 1 - shown[rows]),
                "rewards": right[rows].astype(float),
                "truncated": True,
            }
        )
    return TrajectoryDataset.from_episodes(pieces, action_space=Space.discrete(2))


def share_right(policy, target, steps=60, count=100):
    """Act for some steps; the share of right answers after the first ten."""
    random = np.random.default_rng(1)
    sessions = policy.sessions([target] * count, range(count))
    right = []
    for _ in range(steps):
        shown = random.integers(0, 2, count)
        right.append(sessions.act(range(count), shown[:, None].astype(np.float32)) == shown)
        sessions.observe(range(count), right[-1].astype(float))
    return float(np.mean(right[10:]))


@pytest.mark.slow
def test_a_process_without_end_is_steered_by_its_next_rewards_and_not_by_sums_to_where_it_was_cut(tmp_path):
    data = shifts()
    steered = {}
    for kind in ("next:10", "episode"):
        config = tiny_config(
            tmp_path / kind.replace(":", "-"),
            returns={"kind": kind},
            policy={"action_selection": "sample"},
            windows={"context_length": 3},
            model={"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "timestep_initializer_range": 0.02},
            training={"train_steps": 500, "batch_size": 64, "learning_rate": 3e-3, "checkpoint_every": 500},
        )
        policy = load_policy(train(config, dataset=data))
        low, high = np.quantile(policy.spec.return_quantiles, (0.1, 0.9))
        steered[kind] = (low, share_right(policy, low)), (high, share_right(policy, high))
    (low, few), (high, many) = steered["next:10"]
    assert few == pytest.approx(low / 10, abs=0.15)
    assert many == pytest.approx(high / 10, abs=0.15)
    (_, few), (_, many) = steered["episode"]
    assert many - few < 0.3
