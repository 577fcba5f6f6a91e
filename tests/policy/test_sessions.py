"""Claims about acting: sessions see what training saw, alone or together, and refuse what they cannot act on."""

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError
from rl_transformer.policy.gatherer import condition_column
from rl_transformer.runtime.machine import cpu_threads
from rl_transformer.trajectories import Space, TrajectoryDataset
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowIndex
from tests.policy.kinds import KINDS
from tests.toys import point_data, untrained_policy


def one_episode(actions, **changes):
    """Five steps with observations of one number."""
    return {
        "observations": np.random.rand(6, 1),
        "actions": actions,
        "rewards": np.zeros(5),
        "terminated": True,
        **changes,
    }


def image_episode(frames):
    zeros = np.zeros(len(frames))
    return {"observations": frames, "actions": zeros.astype(np.int64), "rewards": zeros, "terminated": True}


@pytest.mark.parametrize("kind", ["published", "added", "delayed", "clipped"])
def test_sessions_feed_the_model_what_training_windows_hold(kind, monkeypatch):
    """For t < K, t = K and t > K, and beyond the timestep table: the same tokens for the same prefix."""
    data = point_data(3)
    options = {section: dict(values) for section, values in KINDS[kind].items()}
    options["model"] = options.get("model", {}) | {"max_ep_len": 9}
    options["returns"] = options.get("returns", {}) | {"scale": 7.0}
    policy = untrained_policy(data, **options)
    returns = policy.spec.returns
    context = policy.spec.context_length
    gatherer = WindowGatherer(
        data,
        conditions=[condition_column(condition, data) for condition in policy.spec.conditions],
        window_length=context,
        max_timesteps=9,
        normalizer=policy.normalizer,
    )
    seen = []
    genuine = policy.model.predict_actions
    monkeypatch.setattr(
        policy.model, "predict_actions", lambda *inputs, **o: seen.append(inputs) or genuine(*inputs, **o)
    )
    for episode in range(3):
        trajectory = data.trajectory(episode)
        session = policy.session(float(returns.totals(data)[episode]))
        for t in range(len(trajectory.rewards)):
            session.act(trajectory.observations[t])
            # What training saw is the logged action, whatever the untrained policy would do.
            logged = policy.normalizer.to_model_actions(torch.from_numpy(trajectory.actions[t]))
            session._batch._history.columns["actions"][t % context] = logged
            session.observe(float(trajectory.rewards[t]))
            start = max(0, t + 1 - context)
            length = t + 1 - start
            window = gatherer.gather(WindowIndex(np.array([data.offsets[episode] + start]), np.array([episode])))
            for name, mine, theirs in zip(
                ("states", "actions", "conditions", "timesteps"), seen[-1], window.inputs, strict=True
            ):
                steps = length - 1 if name == "actions" else length  # the newest action is not yet made
                torch.testing.assert_close(
                    mine[:1, :steps], theirs[:, :steps], atol=1e-5, rtol=1e-5, msg=f"{name} at {t}"
                )


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_acts_alike_alone_and_among_others(kind):
    """Bit-equal on a CPU: neighbors that start, end and restart at other times change nothing."""
    policy = untrained_policy(point_data(), **KINDS[kind])
    takes = policy.spec.takes_target
    random = np.random.default_rng(0)
    observations = random.normal(size=(4, 20, 2)).astype(np.float32)
    rewards = random.normal(size=(4, 20))
    targets = [float(3 + i) if takes else None for i in range(4)]
    alone = []
    for i in range(4):
        session = policy.session(targets[i], seed=i)
        actions = []
        for t in range(20):
            actions.append(session.act(observations[i, t]))
            session.observe(rewards[i, t])
        alone.append(np.array(actions))
    together = policy.sessions(targets, range(4))
    done = np.zeros(4, int)
    collected = [[] for _ in range(4)]
    while (done < 20).any():
        live = [i for i in range(4) if done[i] < 20 and random.random() < 0.6]
        if not live:
            continue
        actions = together.act(live, np.stack([observations[i, done[i]] for i in live]))
        together.observe(live, [rewards[i, done[i]] for i in live])
        for i, action in zip(live, actions, strict=True):
            collected[i].append(action)
            done[i] += 1
    for i in range(4):
        np.testing.assert_array_equal(np.array(collected[i]), alone[i])
    together.reset([2], [targets[0]], [0])
    again = together.act([2], observations[0, :1])
    np.testing.assert_array_equal(again[0], alone[0][0])


@pytest.mark.parametrize("action_size", [1, 3])
@pytest.mark.parametrize("model", [{}, {"attention": "sliding_window"}, {"arch": "behavior_cloning"}], ids=str)
def test_actions_are_the_same_to_the_bit_at_the_published_size_with_several_threads(model, action_size):
    """Products of few rows, or of one output, are summed in another order; sessions never compute them (`MIN_ROWS`)."""
    random = np.random.default_rng(0)
    episode = {
        "observations": random.normal(size=(31, 11)),
        "actions": random.uniform(-1, 1, (30, action_size)),
        "rewards": random.normal(size=30),
        "terminated": True,
    }
    sizes = {"hidden_size": 128, "n_layer": 3, "n_head": 1, "max_ep_len": 50}
    data = TrajectoryDataset.from_episodes([episode])
    policy = untrained_policy(data, model={**sizes, **model}, windows={"context_length": 20})
    target = 5.0 if policy.spec.takes_target else None
    count = 26  # a multiple of neither four nor sixteen
    observations = random.normal(size=(count, 24, 11)).astype(np.float32)
    rewards = random.normal(size=(count, 24))
    for threads in (1, 2):
        with cpu_threads(threads):
            together = policy.sessions([target] * count, range(count))
            alone = [policy.session(target, seed=i) for i in range(2)]
            for t in range(24):
                actions = together.act(range(count), observations[:, t])
                together.observe(range(count), rewards[:, t])
                for i, session in enumerate(alone):
                    assert np.array_equal(session.act(observations[i, t]), actions[i]), (threads, t)
                    session.observe(rewards[i, t])


def test_the_target_falls_by_each_reward_or_is_kept():
    for kind, expected in (("published", [10, 9.5, 7.5]), ("delayed", [10, 10, 10]), ("clipped", [10, 9.6, 9.2])):
        session = untrained_policy(point_data(), **KINDS[kind]).session(10.0)
        seen = [session.return_to_go]
        for reward in (0.5, 2.0):
            session.act(np.zeros(2))
            session.observe(reward)
            seen.append(session.return_to_go)
        assert seen == pytest.approx(expected)
        assert session.conditions == {"return_to_go": pytest.approx(expected[-1])}


@pytest.mark.parametrize("kind", ["cloning", "mlp"])
def test_a_policy_without_a_return_has_no_return_to_go_and_says_so(kind):
    session = untrained_policy(point_data(), **KINDS[kind]).session()
    assert session.conditions == {}
    with pytest.raises(RLTransformerError, match=r"not conditioned on a return\n  fix: read session.conditions"):
        _ = session.return_to_go


def test_actions_come_back_in_the_units_and_bounds_of_the_environment():
    episode = one_episode(np.full((5, 2), 4.0, np.float32))
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.box((2,), [0, 4], [10, 6]))
    policy = untrained_policy(data)
    for bias, expected in ((50.0, [10, 6]), (-50.0, [0, 4])):
        torch.nn.init.constant_(policy.model.predict_action[0].bias, bias)
        action = policy.session(0.0).act(np.zeros(1))
        assert action.tolist() == expected
        assert action.dtype == np.float32


def test_discrete_actions_respect_the_first_number_and_what_is_allowed():
    episode = one_episode(np.array([1, 2, 3, 1, 2]))
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.discrete(3, start=1))
    policy = untrained_policy(data)
    for only in (0, 1, 2):
        session = policy.session(0.0)
        assert session.act(np.zeros(1), allowed=np.arange(3) == only) == only + 1
    with pytest.raises(RLTransformerError, match="forbids every action"):
        policy.session(0.0).act(np.zeros(1), allowed=np.zeros(3, bool))
    with pytest.raises(RLTransformerError, match=r"pass booleans of shape \(3,\)"):
        policy.session(0.0).act(np.zeros(1), allowed=np.ones(4, bool))


def test_sampling_depends_on_the_seed_alone():
    policy = untrained_policy(point_data(), **KINDS["gaussian sample"])
    draws = [policy.session(5.0, seed=seed).act(np.zeros(2)).item() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_image_sessions_stack_frames_as_the_gather_does():
    frames = np.random.default_rng(0).integers(0, 255, (6, 1, 36, 36), dtype=np.uint8)
    data = TrajectoryDataset.from_episodes([image_episode(frames)], action_space=Space.discrete(2))
    policy = untrained_policy(data, model={"frame_stack": 3})
    gatherer = WindowGatherer(
        data, conditions=[], window_length=6, max_timesteps=9, normalizer=policy.normalizer, frame_stack=3
    )
    expected = gatherer.gather(WindowIndex(np.array([0]), np.array([0]))).states[0]
    session = policy.session(0.0)
    for t in range(6):
        session.act(frames[t])
        assert torch.equal(session._batch._history.columns["states"][t % 5], expected[t])
        session.observe(0.0)


MISUSES = {
    "two acts in a row": (lambda s: (s.act(np.zeros(2)), s.act(np.zeros(2))), "acts twice in a row"),
    "a reward first": (lambda s: s.observe(1.0), "a reward without an action"),
    "another shape": (lambda s: s.act(np.zeros(3)), r"has shape \(3,\), and the space has \(2,\)"),
    "NaN": (lambda s: s.act(np.array([0, np.nan])), "feature 1 of the observation is nan"),
    "infinite reward": (lambda s: (s.act(np.zeros(2)), s.observe(np.inf)), "the reward inf is not finite"),
    "allowed for a continuous action": (
        lambda s: s.act(np.zeros(2), allowed=[True]),
        "continuous actions have no mask",
    ),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_of_a_session_is_an_error_with_a_fix(name):
    misuse, message = MISUSES[name]
    with pytest.raises(RLTransformerError, match=message) as caught:
        misuse(untrained_policy(point_data()).session(5.0))
    assert caught.value.fix


def test_numbers_beyond_float32_are_refused_and_never_acted_on():
    policy = untrained_policy(point_data())
    for target, message in ((1e39, "1e.39 is not a finite number"), (1e38, "model output is not finite")):
        with pytest.raises(RLTransformerError, match=message):
            policy.session(target).act(np.zeros(2))
    session = policy.session(1.0)
    session.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="exceeds the range of float32"):
        session.observe(-1e300)


def test_integer_actions_are_rounded_and_a_dimension_that_cannot_vary_keeps_its_value():
    space = Space.box((2,), [0, 7], [10, 7], dtype="int64")
    policy = untrained_policy(TrajectoryDataset.from_episodes([one_episode(np.full((5, 2), 7))], action_space=space))
    linear = policy.model.predict_action[0]
    torch.nn.init.zeros_(linear.weight)
    # tanh of it, in units of half the range, is 1.9 above the middle
    torch.nn.init.constant_(linear.bias, 0.99 / 5 * 2)
    action = policy.session(0.0).act(np.zeros(1))
    assert (action.tolist(), action.dtype) == ([7, 7], np.int64)


def test_actions_stay_in_their_bounds_without_tanh_too():
    policy = untrained_policy(point_data(), model={"action_tanh": False})
    torch.nn.init.constant_(policy.model.predict_action[0].bias, 50.0)
    session = policy.session(5.0)
    assert session.act(np.zeros(2)).tolist() == [1.0]
    assert session._batch._history.columns["actions"][0].tolist() == [1.0]  # the context holds what was done


def test_a_refused_act_leaves_the_session_as_it_was():
    frames = np.random.default_rng(0).integers(0, 255, (3, 1, 36, 36), dtype=np.uint8)
    data = TrajectoryDataset.from_episodes([image_episode(frames)], action_space=Space.discrete(2))
    policy = untrained_policy(data, model={"frame_stack": 2})
    clean = policy.session(0.0)
    tried = policy.session(0.0)
    for frame in frames:
        with pytest.raises(RLTransformerError, match="forbids every action"):
            tried.act(frame, allowed=[False, False])
        assert clean.act(frame) == tried.act(frame)
        clean.observe(0.0)
        tried.observe(0.0)
    for name, column in clean._batch._history.columns.items():
        assert torch.equal(column, tried._batch._history.columns[name])


def test_a_batch_of_sessions_refuses_rows_that_do_not_fit():
    sessions = untrained_policy(point_data()).sessions([1.0, 2.0], [0, 1])
    for rows in ([0, 0], [-1], [2], []):
        with pytest.raises(RLTransformerError, match="are not distinct sessions out of 2"):
            sessions.act(rows, np.zeros((len(rows), 2)))
    with pytest.raises(RLTransformerError, match="1 observations for 2 sessions"):
        sessions.act([0, 1], np.zeros((1, 2)))
    sessions.act([0, 1], np.zeros((2, 2)))
    with pytest.raises(RLTransformerError, match=r"reward has shape \(1,\) for 2 sessions"):
        sessions.observe([0, 1], [5.0])


def test_targets_are_refused_where_they_mean_nothing_and_suggested_where_none_is_given():
    with pytest.raises(RLTransformerError, match="takes no target return, and 3 was given"):
        untrained_policy(point_data(), **KINDS["cloning"]).session(3.0)
    policy = untrained_policy(point_data())
    assert policy.session().return_to_go == pytest.approx(point_data().episode_returns.max())
    assert list(policy.spec.suggested_targets) == sorted(
        np.quantile(point_data().episode_returns, [0.25, 0.5, 0.75, 1]).tolist()
    )
    with pytest.raises(RLTransformerError, match="nan is not a finite number"):
        policy.session(float("nan"))
