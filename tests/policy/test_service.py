"""Claims about sessions in a service: executed actions, late rewards, states, targets, growing batches. Every claim holds
for every kind of policy (`ALL_KINDS`)."""

import base64
import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError
from rl_transformer.policy.session_state import history_steps
from rl_transformer.trajectories import TrajectoryDataset
from tests.policy.kinds import ALL_KINDS, Episode
from tests.toys import point_data, toll_data, untrained_policy


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_session_continues_to_the_bit_from_its_state_at_any_time(kind):
    """From every timestep, with an action pending and without, and through JSON text, as after a restart."""
    episode = Episode(kind)
    for cut in (0, 1, 3, 8):
        for pending in (False, True):
            whole = episode.session()
            for t in range(cut):
                episode.step(whole, t)
            if pending:
                whole.act(episode.observations[cut])
            restored = episode.policy.restore(json.loads(json.dumps(whole.state(), allow_nan=False)))
            assert restored.conditions == whole.conditions
            for t in range(cut, 14):
                actions = []
                for session in (whole, restored):
                    if t > cut or not pending:
                        actions.append(np.asarray(session.act(episode.observations[t])).tolist())
                    session.observe(episode.rewards[t], **episode.outcomes(t))
                assert actions[:1] == actions[1:], (cut, pending, t)
                assert restored.conditions == whole.conditions
            assert restored.state() == whole.state()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_context_holds_the_executed_action(kind):
    """A session told of other actions goes on as one that chose them: they are what the model sees."""
    episode = Episode(kind)
    session = episode.session()
    space = episode.policy.spec.data.action_space
    for t in range(8):
        session.act(episode.observations[t])
        executed = episode.actions[t % len(episode.actions)]
        session.observe(episode.rewards[t], action=executed, **episode.outcomes(t))
        history = session._batch._history
        stored = history.columns["actions"][t % history.length]
        in_units = episode.policy.normalizer.to_env_actions(stored[None]).numpy()
        np.testing.assert_allclose(space.decode_actions(in_units)[0], executed, atol=1e-5)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_observing_the_policys_own_action_changes_nothing_and_another_one_what_follows(kind):
    episode = Episode(kind)
    plain, same, other = (episode.session() for _ in range(3))
    reads_actions = episode.policy.spec.arch == "decision_transformer" and episode.policy.spec.context_length > 1
    read = []
    for t in range(8):
        action = plain.act(episode.observations[t])
        assert np.array_equal(same.act(episode.observations[t]), action)
        other.act(episode.observations[t])
        executed = episode.actions[t % len(episode.actions)]
        plain.observe(0.1, **episode.outcomes(t))
        same.observe(0.1, action=action, **episode.outcomes(t))
        other.observe(0.1, action=executed, **episode.outcomes(t))
        read.append(not np.array_equal(executed, action))
    infos = [session.act(episode.observations[8], return_info=True) for session in (plain, same, other)]
    assert np.array_equal(infos[0][0], infos[1][0])
    assert infos[0][1] == infos[1][1]
    if reads_actions and any(read[-4:]) and infos[0][1]["action_probabilities"] is not None:
        assert infos[0][1]["action_probabilities"] != infos[2][1]["action_probabilities"]


def test_the_kv_cache_holds_the_token_of_the_executed_action():
    """A session that is told of executed actions equals one whose policy chose these very actions."""
    policy = untrained_policy(point_data(), model={"attention": "sliding_window"})
    executed = np.linspace(-0.9, 0.9, 12, dtype=np.float32)[:, None]
    observations = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    told = policy.session(5.0)
    untold = policy.session(5.0)
    steered = policy.session(5.0)
    for t in range(12):
        action = told.act(observations[t])
        # The same by hand: the history is overwritten before the next action puts it into the cache.
        assert np.array_equal(steered.act(observations[t]), action)
        other = untold.act(observations[t])
        history = steered._batch._history
        history.columns["actions"][t % history.length] = float(executed[t, 0])
        told.observe(0.5, action=executed[t])
        steered.observe(0.5)
        untold.observe(0.5)
    assert not np.array_equal(action, other)


BAD_EXECUTED = {
    "published": [([2.0], "outside the action space"), ([math.nan], "not finite"), ([0.1, 0.2], "shape"),
                  (["left"], "not numbers")],
    "discrete": [(0, "outside the action space"), (1.5, "outside"), ([1, 2], "shape"), (math.inf, "not finite")],
    "multi-discrete": [([4, 0], "outside"), ([1], "shape")],
    "box of integers": [([0.5, 6], "outside the action space"), ([11, 6], "outside")],
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_EXECUTED)
def test_an_executed_action_is_checked_like_a_logged_one(kind):
    episode = Episode(kind)
    session = episode.session()
    session.act(episode.observations[0])
    before = session.state()
    for executed, message in BAD_EXECUTED[kind]:
        with pytest.raises(RLTransformerError, match=message) as caught:
            session.observe(1.0, action=executed)
        assert "what was executed" in caught.value.fix
        assert session.state() == before
    session.observe(1.0, action=episode.actions[0])


def test_an_executed_action_that_was_not_allowed_is_refused():
    for kind, mask, legal, illegal in (
        ("discrete", [True, False, True], 3, 2),
        ("multi-discrete", ([True, True, False], [True, True]), [2, 1], [3, 1]),
    ):
        episode = Episode(kind)
        session = episode.session()
        session.act(episode.observations[0], allowed=mask)
        restored = episode.policy.restore(json.loads(json.dumps(session.state())))
        for each in (session, restored):
            with pytest.raises(RLTransformerError, match="was not allowed"):
                each.observe(0.0, action=illegal)
            each.observe(0.0, action=legal)
        session.act(episode.observations[1])  # without a mask everything is legal again
        session.observe(0.0, action=illegal)


def test_executed_actions_of_a_batch_are_given_per_session_and_none_stands_for_the_chosen_one():
    episode = Episode("sliding window")
    batch = episode.policy.sessions([5.0, 5.0, 5.0], [0, 1, 2])
    alone = [episode.policy.session(5.0, i) for i in range(3)]
    for t in range(8):
        observations = np.stack([episode.observations[t] + i for i in range(3)])
        actions = batch.act([0, 1, 2], observations)
        for i, session in enumerate(alone):
            assert np.array_equal(session.act(observations[i]), actions[i])
        executed = [None, np.array([0.25], np.float32), None if t % 2 else [0.5]]
        batch.observe([0, 1, 2], [1.0, None, 0.5], executed)
        for session, reward, action in zip(alone, [1.0, None, 0.5], executed, strict=True):
            session.observe(reward, action=action)
    for wrong in ([None, None], 3.0, np.zeros(2)):
        batch_copy = episode.policy.restore_sessions(batch.state())
        batch_copy.act([0, 1, 2], observations)
        with pytest.raises(RLTransformerError, match="actions for 3 sessions"):
            batch_copy.observe([0, 1, 2], [1.0, 1.0, 1.0], wrong)


# Rewards that are late


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_late_outcomes_end_where_punctual_ones_do(kind):
    """In any order, each clipped for itself; what never arrives is never charged."""
    episode = Episode(kind)
    punctual = episode.session()
    late = episode.session()
    for t in range(6):
        for session in (punctual, late):
            session.act(episode.observations[t])
        punctual.observe(episode.rewards[t], **episode.outcomes(t))
        before = late.conditions
        late.observe(None, **dict.fromkeys(episode.outcomes(t)))
        if episode.policy.spec.target == "given":
            assert late.conditions == before
    for t in (3, 0, 5, 1, 2, 4):
        late.observe_late(episode.rewards[t])
        if episode.has_cost:
            late.observe_late(cost=episode.outcomes(t)["cost"])
    assert late.conditions.keys() == punctual.conditions.keys()
    if episode.policy.spec.target == "given":
        assert all(late.conditions[name] == pytest.approx(value) for name, value in punctual.conditions.items())
    with pytest.raises(RLTransformerError, match="no reward of session 0 is missing"):
        late.observe_late(1.0)


def test_a_late_reward_is_clipped_alone_and_can_come_while_an_action_is_pending():
    session = untrained_policy(point_data(), returns={"reward_clip": 0.4}).session(8.0)
    for _ in range(2):
        session.act(np.zeros(2))
        session.observe()
    session.act(np.zeros(2))
    session.observe_late(3.0)
    session.observe_late(0.1)
    assert session.return_to_go == pytest.approx(8.0 - 0.4 - 0.1)
    session.observe(5.0)
    assert session.return_to_go == pytest.approx(8.0 - 0.4 - 0.1 - 0.4)


def test_ambiguous_reports_are_refused_and_change_nothing():
    session = untrained_policy(toll_data(), model={"conditions": ["return_to_go", "cost_to_go"]}).session(
        8.0, targets={"cost_to_go": 60.0}
    )
    session.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="none was reported") as caught:
        session.observe(1.0)
    assert "None if it is not known yet" in caught.value.fix
    session.observe(1.0, cost=None)
    before = session.state()
    for report, message in (
        (lambda: session.observe_late(1.0), "no reward of session 0 is missing"),
        (lambda: session.observe_late(), "nothing is reported"),
        (lambda: session.observe_late(fuel=1.0), "uses the outcome 'fuel'"),
        (lambda: session.observe_late(cost="much"), "the cost is not a number"),
        (lambda: session.observe_late(cost=math.nan), "not finite"),
        (lambda: session.observe(1.0, cost=1.0), "a reward without an action"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            report()
        assert session.state() == before
    session.observe_late(cost=2.0)
    assert session.conditions["cost_to_go"] == 58.0


def test_rewards_of_one_number_are_taken_in_any_form():
    """Environments return arrays of one number. Reported as tianshou#865."""
    session = untrained_policy(point_data()).session(8.0)
    for reward in (1, 1.0, np.float32(1), np.array(1.0), np.array([1.0]), [1.0]):
        session.act(np.zeros(2))
        session.observe(reward)
    assert session.return_to_go == 2.0


# Targets


def test_the_return_to_go_can_be_set_between_actions_and_is_noted_outside_the_data(capsys):
    data = point_data()
    policy = untrained_policy(data)
    session = policy.session(8.0)
    session.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="awaits its outcome"):
        session.return_to_go = 4.0
    session.observe(None)
    session.return_to_go = 6.0
    assert session.return_to_go == 6.0
    assert not capsys.readouterr().out
    with pytest.raises(RLTransformerError, match="no reward of session 0 is missing"):
        session.observe_late(1.0)  # it belongs to the former target
    session.return_to_go = 99.0
    assert "target return 99 is outside the training data's" in capsys.readouterr().out
    session.act(np.zeros(2))
    assert session._batch._history.columns["conditions"][1].item() == pytest.approx(99.0 / policy.spec.returns.scale)
    for bad in (math.nan, None, "high", [1.0], 1e39):
        with pytest.raises(RLTransformerError, match="is not a finite number"):
            untrained_policy(data).session(5.0).return_to_go = bad


@pytest.mark.parametrize("kind", ["cloning", "mlp", "generated target"])
def test_the_return_to_go_is_not_set_for_a_policy_that_takes_no_target(kind):
    with pytest.raises(RLTransformerError, match="takes no target return, and 3 was given"):
        Episode(kind).session().return_to_go = 3.0


def test_a_batchs_return_to_go_is_set_by_its_method_and_never_past_its_checks():
    batch = untrained_policy(point_data()).sessions([5.0, 6.0], [0, 1])
    with pytest.raises(ValueError, match="read-only"):
        batch.return_to_go[0] = 7.0
    batch.set_return_to_go([1], [7.0])
    assert batch.return_to_go.tolist() == [5.0, 7.0]
    with pytest.raises(RLTransformerError, match="1 values for 2 sessions"):
        batch.set_return_to_go([0, 1], [7.0])


def test_a_session_notes_a_target_outside_the_data_once(capsys):
    policy = untrained_policy(point_data())
    for _ in range(3):
        policy.session(99.0)
    assert capsys.readouterr().out.count("target return 99 is outside") == 1
    policy.session(8.0)
    assert not capsys.readouterr().out


# States


def states_of(kind="sliding window", acts=3):
    episode = Episode(kind)
    session = episode.session()
    for t in range(acts):
        episode.step(session, t)
    return episode, session.state()


def changed(state, **values):
    copied = copy.deepcopy(state)
    copied["sessions"][0].update(values)
    return copied


HOSTILE = {
    "no dict": lambda s: [s],
    "no fields": lambda s: {"format_version": 1},
    "a later format": lambda s: s | {"format_version": 3},
    "a huge format": lambda s: s | {"format_version": True},
    "more fields": lambda s: s | {"run": "rm"},
    "another policy": lambda s: s | {"policy": "0" * 64},
    "a policy that is no text": lambda s: s | {"policy": 10**6},
    "sessions that are no list": lambda s: s | {"sessions": {"0": s["sessions"][0]}},
    "two sessions": lambda s: s | {"sessions": s["sessions"] * 2},
    "no session": lambda s: s | {"sessions": []},
    "a session that is no dict": lambda s: s | {"sessions": ["x"]},
    "an unknown field": lambda s: changed(s, more=1),
    "a step of text": lambda s: changed(s, step="3"),
    "a step of true": lambda s: changed(s, step=True),
    "a negative step": lambda s: changed(s, step=-1),
    "a huge step": lambda s: changed(s, step=10**5000),
    "another step": lambda s: changed(s, step=2),
    "a fraction of a step": lambda s: changed(s, step=3.0),
    "a flag of numbers": lambda s: changed(s, awaits_outcome=1),
    "a negative seed": lambda s: changed(s, seed=-1),
    "too many draws": lambda s: changed(s, draws=2**70),
    "NaN": lambda s: changed(s, conditions={"return_to_go": [math.nan]}),
    "infinite": lambda s: changed(s, conditions={"return_to_go": [math.inf]}),
    "text": lambda s: changed(s, conditions={"return_to_go": ["5"]}),
    "a wide condition": lambda s: changed(s, conditions={"return_to_go": [1.0, 2.0]}),
    "another condition": lambda s: changed(s, conditions={"cost_to_go": [1.0]}),
    "no conditions": lambda s: changed(s, conditions=None),
    "missing more than steps": lambda s: changed(s, missing={"reward": 4}),
    "missing others": lambda s: changed(s, missing={"cost": 0}),
    "a mask": lambda s: changed(s, allowed=[True]),
    "no cache": lambda s: changed(s, cache=None),
    "a huge cache": lambda s: changed(s, cache="A" * 10_000_000),
    "a cache of NaN": lambda s: changed(s, cache="//////" + s["sessions"][0]["cache"][6:]),
    "no base64": lambda s: changed(s, cache="!" * len(s["sessions"][0]["cache"])),
    "text beyond ASCII": lambda s: changed(s, cache="é" * len(s["sessions"][0]["cache"])),
    "a cache of lists": lambda s: changed(s, cache=[[0.0]]),
    "history of another kind": lambda s: changed(s, history=[]),
    "history without actions": lambda s: changed(s, history={"states": "", "conditions": ""}),
    "short history": lambda s: changed(s, history=s["sessions"][0]["history"] | {"states": ""}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_state_is_a_named_error(name, monkeypatch):
    episode, state = states_of()
    assert episode.policy.restore(state).state() == state
    state = HOSTILE[name](state)
    if name not in ("two sessions", "no session"):
        # Nothing may be allocated before the state is known to be right.
        monkeypatch.setattr("rl_transformer.policy.predictor.Predictor.resize", None)
    with pytest.raises(RLTransformerError) as caught:
        episode.policy.restore(state)
    assert caught.value.where == "session state"
    assert caught.value.fix


def test_a_state_with_actions_outside_the_space_is_refused():
    episode, state = states_of("discrete")
    actions = base64.b64encode(np.full(3, 7, "<i8").tobytes()).decode()
    far = changed(state, history=state["sessions"][0]["history"] | {"actions": actions})
    with pytest.raises(RLTransformerError, match="holds actions outside the action space"):
        episode.policy.restore(far)


def test_a_state_belongs_to_the_content_of_a_policy():
    episode, state = states_of("published")
    other = copy.deepcopy(episode.policy)
    assert other.content_hash == episode.policy.content_hash
    other.restore(state)  # an equal copy continues it
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(RLTransformerError, match="belongs to the policy"):
        other.restore(state)


def test_a_state_holds_the_session_and_nothing_of_the_one_before_it_in_the_same_row():
    episode = Episode("sliding window")
    batch = episode.policy.sessions([5.0], [0])
    fresh = batch.state()
    for t in range(8):
        batch.act([0], episode.observations[t : t + 1])
        batch.observe([0], [0.5])
    batch.reset([0], [5.0], [0])
    assert batch.state() == fresh
    assert history_steps(8, 5).tolist() == [3, 4, 5, 6, 7]


# Batches that grow and shrink


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_actions_are_the_same_in_a_batch_that_grows_shrinks_and_is_restored(kind):
    episode = Episode(kind)
    count = 6
    alone = []
    for i in range(count):
        session = episode.session(seed=i)
        alone.append([episode.step(session, (t + i) % 14) for t in range(10)])
    batch = episode.policy.sessions([], [], targets=episode.targets or None)
    rows = {}
    done = [0] * count
    random = np.random.default_rng(0)
    while min(done) < 10:
        if len(rows) < 3 or random.random() < 0.2:
            waiting = [i for i in range(count) if i not in rows and done[i] == 0]
            if waiting:
                (rows[waiting[0]],) = batch.add([episode.target], [waiting[0]])
        live = [i for i in rows if random.random() < 0.7]
        if not live:
            continue
        actions = batch.act([rows[i] for i in live], np.stack([episode.observations[(done[i] + i) % 14] for i in live]))
        places = [(done[i] + i) % 14 for i in live]
        outcomes = {"cost": [episode.outcomes(t)["cost"] for t in places]} if episode.has_cost else {}
        batch.observe([rows[i] for i in live], [episode.rewards[t] for t in places], **outcomes)
        for i, action in zip(live, actions, strict=True):
            assert np.asarray(action).tolist() == alone[i][done[i]], (i, done[i])
            done[i] += 1
            if done[i] == 10:
                batch.close([rows.pop(i)])
        if rows and random.random() < 0.2:  # a worker restarts
            order = list(rows)
            state = json.loads(json.dumps(batch.state([rows[i] for i in order])))
            batch = episode.policy.restore_sessions(state)
            batch._targets = episode.targets or None
            rows = dict(zip(order, batch.rows, strict=True))
    assert len(batch) == 0


def test_rows_are_reused_and_memory_follows_the_live_sessions():
    policy = untrained_policy(point_data())
    batch = policy.sessions([5.0] * 4, range(4))
    per_session = batch.nbytes / 4
    batch.close([1, 2])
    assert batch.add([6.0], [9]) == [1]
    assert batch.rows == [0, 1, 3]
    assert batch.add([6.0] * 3, range(3)) == [2, 4, 5]
    rows = batch.add([5.0] * 1000, range(1000))
    assert batch.nbytes <= 2.1 * 1006 * per_session
    batch.close(rows[:-1])
    assert len(batch) == 7
    assert batch.nbytes <= 4 * 7 * per_session
    for round_number in range(3000):  # sessions that come and go
        (row,) = batch.add([5.0], [round_number])
        batch.act([row], np.zeros((1, 2)))
        batch.close([row])
    assert batch.nbytes <= 5 * 8 * per_session
    assert len(batch.step) <= 1006
    batch.close(batch.rows)
    assert (len(batch), batch.nbytes) == (0, 0)
    assert batch.state()["sessions"] == []


def test_closed_sessions_and_wrong_starts_are_refused():
    batch = untrained_policy(point_data()).sessions([5.0, 6.0], [0, 1])
    batch.close([0])
    for misuse in (
        lambda: batch.act([0], np.zeros((1, 2))),
        lambda: batch.observe([0], [1.0]),
        lambda: batch.observe_late([0], [1.0]),
        lambda: batch.state([0]),
        lambda: batch.close([0]),
        lambda: batch.reset([0], [1.0], [0]),
        lambda: batch.set_return_to_go([0], [1.0]),
    ):
        with pytest.raises(RLTransformerError, match="session 0 is closed"):
            misuse()
    for targets, seeds, message in (
        ([1.0], [], "1 target returns and 0 seeds"),
        ([1.0], [-1], "are not all seeds"),
        ([1.0], [0.5], "are not all seeds"),
        ([math.nan], [0], "not a finite number"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            batch.add(targets, seeds)
    assert batch.rows == [1]


# Observations


def observed(space, rows=6):
    """A policy on observations of a space."""
    values = [space.sample() for _ in range(rows)]
    episode = {
        "observations": values,
        "actions": np.zeros((rows - 1, 1)),
        "rewards": np.zeros(rows - 1),
        "truncated": True,
    }
    if isinstance(space, gym.spaces.Dict):
        episode["observations"] = {name: np.stack([v[name] for v in values]) for name in values[0]}
    elif isinstance(space, gym.spaces.Tuple):
        episode["observations"] = tuple(np.stack([v[i] for v in values]) for i in range(len(values[0])))
    else:
        episode["observations"] = np.stack(values)
    return untrained_policy(TrajectoryDataset.from_episodes([episode], observation_space=space))


BOX = gym.spaces.Box(-1, 1, (2,), np.float32)
DICT = gym.spaces.Dict({"a": BOX, "b": gym.spaces.Discrete(3)})
LIVE = {
    "another size": (BOX, np.zeros(3), "float32 of shape (2,)"),
    "text": (BOX, ["left", "right"], "float32 of shape (2,)"),
    "ragged": (BOX, [[1.0], [1.0, 2.0]], "float32 of shape (2,)"),
    "nothing": (BOX, None, "float32 of shape (2,)"),
    "a number of no state": (gym.spaces.Discrete(3), 7, "an integer from 0 to 2"),
    "a fraction": (gym.spaces.Discrete(3), 1.5, "an integer from 0 to 2"),
    "parts": (gym.spaces.MultiDiscrete([3, 2]), [3, 0], "integers with [3, 2] values"),
    "a part is missing": (DICT, {"a": np.zeros(2)}, "a dict of a (float32 of shape (2,)"),
    "a part is unknown": (DICT, {"a": np.zeros(2), "c": 1}, "a dict of a (float32 of shape (2,)"),
    "no dict": (DICT, np.zeros(2), "a dict of a (float32 of shape (2,)"),
    "a tuple of one": (gym.spaces.Tuple((BOX, BOX)), (np.zeros(2),), "a tuple of 0 (float32"),
    "floats for an image": (gym.spaces.Box(0, 255, (1, 36, 36), np.uint8), np.zeros((1, 36, 36)), "uint8 of shape"),
}


@pytest.mark.parametrize("name", LIVE)
def test_a_live_observation_out_of_its_space_is_refused_with_what_to_pass(name):
    """Nothing is recorded while acting, so that the advice for logged data, "record ...", would lead nowhere."""
    space, observation, expected = LIVE[name]
    session = observed(space).session(0.0)
    with pytest.raises(RLTransformerError) as caught:
        session.act(observation)
    assert caught.value.where.startswith("act")
    assert expected in caught.value.fix
    assert "record" not in caught.value.fix
    session.act(space.sample())  # nothing has changed


def test_sessions_of_one_policy_act_in_threads_as_they_do_alone():
    episode = Episode("gaussian sample", length=30)

    def run(seed):
        session = episode.session(seed)
        return [episode.step(session, t) for t in range(30)]

    expected = [run(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(6))) == expected
