"""Claims about acting: sessions see what training saw, alone or together, and folders hold what was saved."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.runtime.machine import cpu_threads
from rl_transformer.models import DecisionTransformerConfig, build_model
from rl_transformer.policy import Policy, PolicySpec
from rl_transformer.policy.make_spec import policy_spec
from rl_transformer.trajectories import DataSpec, Space, TrajectoryDataset
from rl_transformer.conditions.return_to_go import ReturnRule
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowIndex
from rl_transformer.windows.normalization import Normalizer

from tests.toys import point_data, tiny_config

KINDS = {
    "published": {},
    "added": {"model": {"condition_entry": "added"}},
    "delayed": {"returns": {"update": "keep"}},
    "clipped": {"returns": {"reward_clip": 0.4}},
    "cloning": {"model": {"conditions": []}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
    "sliding_window": {"model": {"attention": "sliding_window"}},
    "streaming added": {"model": {"attention": "sliding_window", "condition_entry": "added"}},
    "gaussian sample": {"model": {"action_head": "gaussian"}, "policy": {"action_selection": "sample"}},
}


def untrained(dataset, tmp_path, **options) -> Policy:
    """A policy with random weights that are large enough for mistakes to show."""
    config = tiny_config(tmp_path / "none", **options)
    r = config.returns
    rule = ReturnRule.for_data(dataset, scale=r.scale, update=r.update, reward_clip=r.reward_clip)
    spec = policy_spec(dataset, rule, rule.totals(dataset), config)
    model = build_model(spec.arch, spec.model, spec.context_length)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Policy(spec, model, Normalizer.from_data(spec.data, dataset.statistics, action_tanh=spec.model.action_tanh))


@pytest.mark.parametrize("kind", ["published", "added", "delayed", "clipped"])
def test_sessions_feed_the_model_what_training_windows_hold(kind, tmp_path, monkeypatch):
    """For t < K, t = K and t > K, and beyond the timestep table: the same tokens for the same prefix."""
    data = point_data(3)
    options = {k: dict(v) for k, v in KINDS[kind].items()}
    options["model"] = options.get("model", {}) | {"max_ep_len": 9}
    options["returns"] = options.get("returns", {}) | {"scale": 7.0}
    policy = untrained(data, tmp_path, **options)
    rule, context = policy.spec.return_rule, policy.spec.context_length
    gatherer = WindowGatherer(
        data,
        conditions=[rule.column(data)],
        condition_scales=[rule.scale],
        window_length=context,
        max_timesteps=9,
        scaling=policy.normalizer,
    )
    seen = []
    genuine = policy.model.predict_actions
    monkeypatch.setattr(
        policy.model, "predict_actions", lambda *inputs, **o: seen.append(inputs) or genuine(*inputs, **o)
    )
    for episode in range(3):
        trajectory = data.trajectory(episode)
        session = policy.session(float(rule.totals(data)[episode]))
        for t in range(len(trajectory.rewards)):
            session.act(trajectory.observations[t])
            # What training saw is the logged action, whatever the untrained policy would do.
            logged = policy.scaling.actions(torch.from_numpy(trajectory.actions[t]))
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
def test_a_session_acts_alike_alone_and_among_others(kind, tmp_path):
    """Bit-equal on a CPU: neighbors that start, end and restart at other times change nothing."""
    policy = untrained(point_data(), tmp_path, **KINDS[kind])
    takes = policy.spec.takes_target
    random = np.random.default_rng(0)
    observations, rewards = random.normal(size=(4, 20, 2)).astype(np.float32), random.normal(size=(4, 20))
    targets = [float(3 + i) if takes else None for i in range(4)]
    alone = []
    for i in range(4):
        session, actions = policy.session(targets[i], seed=i), []
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
    again = [together.act([2], observations[0, :1]), together.observe([2], [rewards[0, 0]])][0]
    np.testing.assert_array_equal(again[0], alone[0][0])


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_actions_are_the_same_to_the_bit_at_the_published_size_with_several_threads(attention, tmp_path):
    """Matrix products of few rows are summed in another order; sessions never compute so few (`SAME_SUMS_FROM`)."""
    sizes = {"hidden_size": 128, "n_layer": 3, "n_head": 1, "max_ep_len": 50, "attention": attention}
    policy = untrained(point_data(), tmp_path, model=sizes, windows={"context_length": 20})
    random = np.random.default_rng(0)
    observations, rewards = random.normal(size=(7, 26, 2)).astype(np.float32), random.normal(size=(7, 26))
    for threads in (1, 2):
        with cpu_threads(threads):
            together, alone = policy.sessions([5.0] * 7, range(7)), [policy.session(5.0, seed=i) for i in range(2)]
            for t in range(26):
                actions = together.act(range(7), observations[:, t])
                together.observe(range(7), rewards[:, t])
                for i, session in enumerate(alone):
                    assert np.array_equal(session.act(observations[i, t]), actions[i]), (threads, t)
                    session.observe(rewards[i, t])


def test_the_target_falls_by_each_reward_or_is_kept(tmp_path):
    for kind, expected in (("published", [10, 9.5, 7.5]), ("delayed", [10, 10, 10]), ("clipped", [10, 9.6, 9.2])):
        session = untrained(point_data(), tmp_path, **KINDS[kind]).session(10.0)
        found = [session.return_to_go]
        for reward in (0.5, 2.0):
            session.act(np.zeros(2))
            session.observe(reward)
            found.append(session.return_to_go)
        assert found == pytest.approx(expected)


def test_actions_come_back_in_the_units_and_bounds_of_the_environment(tmp_path):
    episode = {
        "observations": np.random.rand(6, 1),
        "actions": np.full((5, 2), 4.0, np.float32),
        "rewards": np.zeros(5),
        "terminated": True,
    }
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.box((2,), [0, 4], [10, 6]))
    policy = untrained(data, tmp_path)
    for bias, expected in ((50.0, [10, 6]), (-50.0, [0, 4])):
        torch.nn.init.constant_(policy.model.predict_action[0].bias, bias)
        action = policy.session(0.0).act(np.zeros(1))
        assert action.tolist() == expected
        assert action.dtype == np.float32


def test_discrete_actions_respect_the_first_number_and_what_is_allowed(tmp_path):
    episode = {
        "observations": np.random.rand(6, 1),
        "actions": np.array([1, 2, 3, 1, 2]),
        "rewards": np.zeros(5),
        "terminated": True,
    }
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.discrete(3, start=1))
    policy = untrained(data, tmp_path)
    for only in (0, 1, 2):
        session = policy.session(0.0)
        assert session.act(np.zeros(1), allowed=np.arange(3) == only) == only + 1
    with pytest.raises(RLTransformerError, match="forbids every action"):
        policy.session(0.0).act(np.zeros(1), allowed=np.zeros(3, bool))
    with pytest.raises(RLTransformerError, match=r"pass booleans of shape \(1, 3\)"):
        policy.session(0.0).act(np.zeros(1), allowed=np.ones(4, bool))


def test_sampling_depends_on_the_seed_alone(tmp_path):
    policy = untrained(point_data(), tmp_path, **KINDS["gaussian sample"])
    draws = [policy.session(5.0, seed=seed).act(np.zeros(2)).item() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_image_sessions_stack_frames_as_the_gather_does(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 255, (7, 1, 36, 36), dtype=np.uint8)
    episode = {"observations": frames[:6], "actions": np.zeros(6, np.int64), "rewards": np.zeros(6), "terminated": True}
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.discrete(2))
    policy = untrained(data, tmp_path, model={"frame_stack": 3})
    gatherer = WindowGatherer(
        data,
        conditions=[],
        condition_scales=[],
        window_length=6,
        max_timesteps=9,
        scaling=policy.normalizer,
        frame_stack=3,
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
    "allowed for a continuous action": (lambda s: s.act(np.zeros(2), allowed=[True]), "not discrete"),
}


def test_numbers_beyond_float32_are_refused_and_never_acted_on(tmp_path):
    policy = untrained(point_data(), tmp_path)
    for target, message in ((1e39, "is not a number to ask for"), (1e38, "not finite")):
        with pytest.raises(RLTransformerError, match=message):
            policy.session(target).act(np.zeros(2))
    session = policy.session(1.0)
    session.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="leaves the range of float32"):
        session.observe(-1e300)


def test_integer_actions_are_rounded_and_a_dimension_that_cannot_vary_is_kept(tmp_path):
    episode = {
        "observations": np.random.rand(6, 1),
        "actions": np.full((5, 2), 7),
        "rewards": np.zeros(5),
        "terminated": True,
    }
    space = Space.box((2,), [0, 7], [10, 7], dtype="int64")
    policy = untrained(TrajectoryDataset.from_episodes([episode], action_space=space), tmp_path)
    linear = policy.model.predict_action[0]
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.constant_(
        linear.bias, 0.99 / 5 * 2
    )  # tanh of it, in units of half the range, is 1.9 above the middle
    action = policy.session(0.0).act(np.zeros(1))
    assert (action.tolist(), action.dtype) == ([7, 7], np.int64)


def test_actions_stay_in_their_bounds_without_tanh_too(tmp_path):
    policy = untrained(point_data(), tmp_path, model={"action_tanh": False})
    torch.nn.init.constant_(policy.model.predict_action[0].bias, 50.0)
    session = policy.session(5.0)
    assert session.act(np.zeros(2)).tolist() == [1.0]
    assert session._batch._history.columns["actions"][0].tolist() == [1.0]  # the context holds what was done


def test_a_refused_act_leaves_the_session_as_it_was(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 1, 36, 36), dtype=np.uint8)
    episode = {"observations": frames, "actions": np.zeros(3, np.int64), "rewards": np.zeros(3), "terminated": True}
    data = TrajectoryDataset.from_episodes([episode], action_space=Space.discrete(2))
    policy = untrained(data, tmp_path, model={"frame_stack": 2})
    clean, tried = policy.session(0.0), policy.session(0.0)
    for frame in frames:
        with pytest.raises(RLTransformerError, match="forbids every action"):
            tried.act(frame, allowed=[False, False])
        assert clean.act(frame) == tried.act(frame)
        clean.observe(0.0)
        tried.observe(0.0)
    for name, column in clean._batch._history.columns.items():
        assert torch.equal(column, tried._batch._history.columns[name])


def test_a_batch_of_sessions_refuses_rows_that_do_not_fit(tmp_path):
    sessions = untrained(point_data(), tmp_path).sessions([1.0, 2.0], [0, 1])
    for rows in ([0, 0], [-1], [2]):
        with pytest.raises(RLTransformerError, match="are not different sessions of 2"):
            sessions.act(rows, np.zeros((len(rows), 2)))
    with pytest.raises(RLTransformerError, match="1 observations for 2 sessions"):
        sessions.act([0, 1], np.zeros((1, 2)))
    sessions.act([0, 1], np.zeros((2, 2)))
    with pytest.raises(RLTransformerError, match="rewards for 2 sessions"):
        sessions.observe([0, 1], [5.0])


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_of_a_session_is_an_error_with_a_cure(name, tmp_path):
    misuse, message = MISUSES[name]
    with pytest.raises(RLTransformerError, match=message) as caught:
        misuse(untrained(point_data(), tmp_path).session(5.0))
    assert caught.value.fix


def test_targets_are_refused_where_they_mean_nothing_and_suggested_where_none_is_given(tmp_path):
    with pytest.raises(RLTransformerError, match="not asked for a return, and 3 was asked for"):
        untrained(point_data(), tmp_path, **KINDS["cloning"]).session(3.0)
    policy = untrained(point_data(), tmp_path)
    assert policy.session().return_to_go == pytest.approx(point_data().episode_returns.max())
    assert list(policy.spec.suggested_targets) == sorted(
        np.quantile(point_data().episode_returns, [0.25, 0.5, 0.75, 1]).tolist()
    )
    with pytest.raises(RLTransformerError, match="nan is not a number to ask for"):
        policy.session(float("nan"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_acts_as_the_one_that_was_saved(kind, tmp_path):
    policy = untrained(point_data(), tmp_path, **KINDS[kind])
    policy.save(tmp_path / "p")
    loaded = load_policy(tmp_path / "p")
    assert loaded.spec == policy.spec
    assert loaded.content_hash == policy.content_hash
    for session, again in ((policy.session(), loaded.session()),):
        for t in range(8):
            assert session.act(np.full(2, t)).tolist() == again.act(np.full(2, t)).tolist()
            session.observe(0.1)
            again.observe(0.1)
    loaded.save(tmp_path / "q")
    for name in ("policy.json", "policy.safetensors", "manifest.json"):
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()


def test_a_tampered_policy_is_refused(tmp_path):
    untrained(point_data(), tmp_path).save(tmp_path / "p")
    for name in ("policy.json", "policy.safetensors"):
        shutil.copytree(tmp_path / "p", tmp_path / name)
        path = tmp_path / name / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(RLTransformerError, match="has changed since it was written"):
            load_policy(tmp_path / name)


def test_a_policy_of_another_format_or_shape_is_refused(tmp_path):
    from rl_transformer.runtime.files import to_json, write_folder

    policy = untrained(point_data(), tmp_path)
    policy.save(tmp_path / "p")

    def rewritten(folder, change_json=lambda v: v, change_tensors=lambda t: t):
        def fill(temporary):
            values = change_json(json.loads((tmp_path / "p/policy.json").read_text()))
            (temporary / "policy.json").write_text(to_json(values))
            save_file(change_tensors(load_file(tmp_path / "p/policy.safetensors")), temporary / "policy.safetensors")

        write_folder(tmp_path / folder, fill)
        return tmp_path / folder

    cases = {
        "newer": (
            rewritten("newer", lambda v: v | {"format_version": 99}),
            "format_version 99, and this rl_transformer reads 1 to 2",
        ),
        "arch": (rewritten("arch", lambda v: v | {"arch": "mystery"}), "unknown arch"),
        "field": (
            rewritten("field", lambda v: v | {"model": v["model"] | {"auto_map": "x.py"}}),
            "unknown model fields: auto_map",
        ),
        "missing": (rewritten("missing", lambda v: {k: x for k, x in v.items() if k != "return_rule"}), "return_rule"),
        "statistics": (
            rewritten(
                "statistics", change_tensors=lambda t: {k: v for k, v in t.items() if "observation_mean" not in k}
            ),
            "lacks observation_mean",
        ),
        "weights": (
            rewritten("weights", change_tensors=lambda t: {k: v for k, v in t.items() if "h.1" not in k}),
            "does not fit",
        ),
    }
    for folder, message in cases.values():
        with pytest.raises(RLTransformerError, match=message):
            load_policy(folder)
    for path, message in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "holds no policy.json"),
        ("hub:name", "not a Hub policy"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            load_policy(path)


def test_a_hub_policy_is_loaded_at_its_pinned_revision_and_only_its_data_files(tmp_path, monkeypatch):
    import huggingface_hub

    policy, asked = untrained(point_data(), tmp_path), []
    policy.save(tmp_path / "snapshot")

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, tuple(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_policy("hub:someone/hopper@v1").content_hash == policy.content_hash
    assert asked == [("someone/hopper", "v1", ("*.json", "*.safetensors"))]
    for uri in ("hub:someone/hopper", "hub:hopper@v1"):
        with pytest.raises(RLTransformerError, match="not a Hub policy"):
            load_policy(uri)
    monkeypatch.undo()
    with pytest.raises(RLTransformerError, match="cannot be downloaded"):  # the tests set the offline mode
        load_policy("hub:someone/hopper@v1")


def test_a_run_that_has_not_finished_says_so(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    shutil.rmtree(folder / "policy")
    with pytest.raises(RLTransformerError, match="has not finished"):
        load_policy(folder)


def test_a_run_folder_and_its_policy_folder_load_alike(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    assert load_policy(folder).content_hash == load_policy(folder / "policy").content_hash


@pytest.mark.parametrize("version", [1, 2])
def test_policies_of_every_released_format_load(version):
    """The folders were written by the versions that brought the format; they must load, and act the same, for ever."""
    from pathlib import Path

    released = Path(__file__).parents[1] / "released"
    policy = load_policy(released / f"policy-format-{version}")
    expected = json.loads((released / f"policy-format-{version}-actions.json").read_text())
    session = policy.session(6.0 if policy.spec.takes_target else None)
    for observation, action in zip(expected["observations"], expected["actions"], strict=True):
        np.testing.assert_allclose(session.act(np.array(observation, np.float32)), action, atol=1e-6)
        session.observe(0.5)


def test_the_spec_of_a_policy_survives_json():
    spec = PolicySpec(
        arch="decision_transformer",
        model=DecisionTransformerConfig(state_dim=2, act_dim=1),
        data=DataSpec(Space.box((2,)), Space.box((1,), -1, 1), "s", "E-v0"),
        context_length=3,
        suggested_targets=(1.0, 2.0),
    )
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict())), where="x") == spec


def test_targets_that_no_episode_had_are_told_with_the_cure(tmp_path):
    data = point_data()
    policy = load_policy(train(tiny_config(tmp_path / "run"), dataset=data))
    low, high = data.episode_returns.min(), data.episode_returns.max()
    assert policy.spec.return_range == pytest.approx((low, high))
    assert policy.warning_about([low, (low + high) / 2, high]) is None
    told = policy.warning_about([high, 99.0, -3.0])
    assert told is not None
    assert "99, -3" in told
    assert f"at most {high:g}" in told
