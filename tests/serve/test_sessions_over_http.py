"""Claims about sessions over HTTP: the same actions to the bit as sessions here, whatever else the server does."""

import threading
from itertools import count

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.serve.check import check_server
from tests.policy.kinds import Episode
from tests.serve.servers import running
from tests.toys import point_data, untrained_policy

STEPS = 8


@pytest.fixture(scope="module")
def point():
    with running(untrained_policy(point_data())) as server:
        yield server


@pytest.fixture
def client(point):
    return point.client()


# One of every form of observation, action and condition; that all kinds act alike is claimed of sessions.
FORMS = ["published", "two conditions", "generated target", "discrete", "multi-discrete", "box of integers"]
FORMS += ["stacked images", "sliding window", "gaussian sample"]


@pytest.mark.parametrize("kind", FORMS)
def test_actions_over_http_are_those_of_a_session_to_the_bit(kind):
    episode = Episode(kind)
    local = episode.session()
    with running(episode.policy) as server:
        client = server.client()
        session = client.open(episode.target, 3, episode.targets)
        for t in range(STEPS):
            action = client.act(session, episode.observations[t].tolist())
            assert action == np.asarray(local.act(episode.observations[t])).tolist()
            executed = episode.actions[t % len(episode.actions)] if t % 3 == 2 else None
            local.observe(episode.rewards[t], action=executed, **episode.outcomes(t))
            sent = None if executed is None else executed.tolist()
            client.observe(session, episode.rewards[t], action=sent, outcomes=episode.outcomes(t))
        assert client.call("GET", f"/v1/sessions/{session}/state") == local.state()


def test_sessions_that_act_at_once_act_together_and_as_they_do_alone():
    """Threads with clients of their own, some with masks; every session has a sequence of its own."""
    episode = Episode("discrete sample in a sliding window")
    number = 12
    mask = [True, False, True]

    def play(act, observe, seed):
        actions = []
        for t in range(STEPS):
            place = (t + seed) % 14
            actions.append(act(episode.observations[place], mask if seed % 3 == 0 else None))
            observe(episode.rewards[place])
        return actions

    alone = []
    for seed in range(number):
        session = episode.policy.session(episode.target, seed)
        alone.append(play(lambda o, m, s=session: s.act(o, m).tolist(), session.observe, seed))
    found = {}
    with running(episode.policy, batch_milliseconds=20) as server:

        def run(seed):
            client = server.client()
            session = client.open(episode.target, seed)
            act = lambda o, m: client.act(session, o.tolist(), m)  # noqa: E731
            found[seed] = play(act, lambda reward: client.observe(session, reward), seed)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = server.app.metrics.batch_sessions
        assert together._sum.get() == number * STEPS
        batches = sum(bucket.get() for bucket in together._buckets)
        assert batches < number * STEPS / 2, "hardly any sessions acted together"
    assert [found[seed] for seed in range(number)] == alone


def test_many_sessions_act_in_one_call_with_the_outcomes_of_their_last_actions(client, point):
    policy = point.service.sessions.current.policy
    local = [policy.session(5.0, seed) for seed in range(3)]
    sessions = [client.open(5.0, seed) for seed in range(3)]
    for t in range(4):
        observations = [[0.1 * t, float(place)] for place in range(3)]
        requests = [
            {"session": session, "observation": observation}
            | ({"outcome": {"reward": 0.25}} if t else {})
            | ({"step": t} if place == 0 else {})
            for place, (session, observation) in enumerate(zip(sessions, observations, strict=True))
        ]
        requests.append({"session": "unknown", "observation": [0, 0]})
        *answers, wrong = client.call("POST", "/v1/act", {"requests": requests})["results"]
        assert [a["action"] for a in answers] == [s.act(o).tolist() for s, o in zip(local, observations, strict=True)]
        assert wrong["error"]["where"] == "session"
        for session in local:
            session.observe(0.25)
    for wrong in ({"requests": 3}, {"requests": [3]}, {"requests": [{"session": "a"}, {"session": "a"}]}, {}):
        assert client.request("POST", "/v1/act", wrong)[0] == 422


def test_a_step_that_is_sent_again_has_the_same_answer_and_counts_once(client):
    session = client.open(5.0, 1)
    path = f"/v1/sessions/{session}"
    first = {"observation": [0.5, 0.5], "step": 0}
    answer = client.call("POST", f"{path}/act", first)
    assert client.call("POST", f"{path}/act", first) == answer
    before = client.call("GET", f"{path}/state")
    for body, problem in (
        ({"observation": [0.5, 0.4], "step": 0}, "for a request with different content"),
        ({"observation": [0.5, 0.5], "step": 1}, "awaits its outcome"),
        ({"observation": [0.5, 0.5]}, "awaits its outcome"),
        ({"observation": [0.5, 0.5], "step": 3, "outcome": {"reward": 1}}, "the next one is 1"),
    ):
        status, content = client.request("POST", f"{path}/act", body)
        assert (status, problem in content["error"]["problem"]) == (409, True), content
    outcome = {"reward": 0.5, "step": 0}
    for body in ({"reward": 0.5, "step": 1}, {"reward": 0.5, "step": -1}):
        assert client.request("POST", f"{path}/observe", body)[0] in (409, 422)
    assert client.call("GET", f"{path}/state") == before, "a refused request has changed the session"
    answer = client.call("POST", f"{path}/observe", outcome)
    assert client.call("POST", f"{path}/observe", outcome) == answer
    assert client.call("GET", f"{path}/state")["sessions"][0]["conditions"] == {"return_to_go": [4.5]}
    assert client.request("POST", f"{path}/observe", {**outcome, "reward": 0.6})[0] == 409
    assert client.request("POST", f"{path}/observe", {"reward": 0.5})[0] == 409
    # The answer of the last action can still be had, but not an action for an earlier step.
    assert client.call("POST", f"{path}/act", first)["step"] == 0
    client.call("POST", f"{path}/act", {"observation": [0, 0], "step": 1})
    assert client.request("POST", f"{path}/act", first)[0] == 409


def test_a_refused_outcome_and_a_refused_observation_change_nothing(client):
    session = client.open(5.0, 1)
    path = f"/v1/sessions/{session}"
    client.act(session, [0, 0])
    before = client.call("GET", f"{path}/state")
    for body in (
        {"observation": [0], "outcome": {"reward": 1}},
        {"observation": [0, 0], "outcome": {"reward": "1"}},
        {"observation": [0, 0], "outcome": {"reward": 1, "action": [7]}},
        {"observation": [0, 0], "outcome": {"reward": 1, "outcomes": {"cost": 1}}},
        {"observation": [0, 0], "outcome": {}},
        {"observation": [0, 0], "allowed": [True], "outcome": {"reward": 1}},
        {"observation": [0, 0], "return_info": 1, "outcome": {"reward": 1}},
        {"observation": [0, 0], "row": {}, "outcome": {"reward": 1}},
        {"row": {"x": 1}, "outcome": {"reward": 1}},
        {"observations": [0, 0], "outcome": {"reward": 1}},
        {"outcome": {"reward": 1}},
    ):
        status, content = client.request("POST", f"{path}/act", body)
        assert status == 422, (body, content)
        assert set(content["error"]) == {"where", "problem", "fix"}
        assert client.call("GET", f"{path}/state") == before


def test_a_state_moves_to_another_server_and_continues_to_the_bit(client, point):
    policy = point.service.sessions.current.policy
    session = client.open(5.0, 1)
    client.act(session, [0.5, 0.5])
    state = client.call("GET", f"/v1/sessions/{session}/state")
    with running(policy) as other:
        there = other.client()
        moved = there.open(1.0, 9)
        answer = there.call("PUT", f"/v1/sessions/{moved}/state", state)
        assert answer == {"policy": policy.content_hash, "step": 0}
        for each, number in ((client, session), (there, moved)):
            each.observe(number, 1.0)
        assert there.act(moved, [0, 1]) == client.act(session, [0, 1])
        for wrong in ({}, {**state, "sessions": []}, {**state, "sessions": state["sessions"] * 2}):
            assert there.request("PUT", f"/v1/sessions/{moved}/state", wrong)[0] == 422
        status, content = there.request("PUT", f"/v1/sessions/{moved}/state", {**state, "policy": "0" * 64})
        assert (status, "belongs to the policy" in content["error"]["problem"]) == (422, True)
        assert len(other.service.sessions.current.batch) == 1


def test_ended_and_unknown_sessions_are_not_found(client):
    session = client.open()
    client.end(session)
    for name in (session, "x", "..", "%2e%2e", "a" * 4000):
        for method, path in (("POST", "act"), ("POST", "observe"), ("GET", "state"), ("PUT", "state")):
            body = {"observation": [0, 0]} if path == "act" else {"reward": 1}
            status, content = client.request(method, f"/v1/sessions/{name}/{path}", body)
            assert status == 404, content
        assert client.request("DELETE", f"/v1/sessions/{name}")[0] == 404


def test_sessions_have_a_seed_of_their_own_and_a_note_about_far_targets(client):
    seeds = {client.call("POST", "/v1/sessions", {})["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert "outside the training data" in client.call("POST", "/v1/sessions", {"target_return": 99})["note"]
    for wrong in (
        {"target_return": "5"},
        {"target_return": True},
        {"target_return": 10**299},
        {"target_return": [1]},
        {"seed": 0.5},
        {"seed": -1},
        {"seed": True},
        {"targets": {"cost_to_go": 1}},
        {"targets": 5},
        {"target": 5},
    ):
        assert client.request("POST", "/v1/sessions", wrong)[0] == 422, wrong


def test_sessions_are_limited_and_idle_ones_end():
    seconds = count(0, 10)
    policy = untrained_policy(point_data())
    with running(policy, max_sessions=2) as server:
        server.service.sessions._clock = lambda: float(next(seconds))
        client = server.client()
        first, second = client.open(), client.open()
        status, content = client.request("POST", "/v1/sessions", {})
        assert (status, "--max-sessions" in content["error"]["fix"]) == (429, True)
        for _ in range(100):  # ten seconds each
            client.act(first, [0, 0])
            client.observe(first, 0.0)
        server.service.end_idle()  # the server does so itself from time to time
        assert client.request("GET", f"/v1/sessions/{second}/state")[0] == 404
        client.act(first, [0, 0])
        client.end(client.open())
        client.end(first)
        assert len(server.service.sessions) == 0


def test_new_sessions_begin_with_a_newer_policy_and_live_ones_keep_theirs():
    old = untrained_policy(point_data())
    new = untrained_policy(point_data(), model={"n_layer": 1})
    offered = []
    with running(old, newer=lambda: offered.pop() if offered else None, reload_seconds=0.02) as server:
        client = server.client()
        before = client.open(5.0, 1)
        offered.append(new)
        while client.call("GET", "/readyz")["policy"] == old.content_hash:
            pass
        after = client.open(5.0, 1)
        for session, policy in ((before, old), (after, new)):
            answer = client.call("POST", f"/v1/sessions/{session}/act", {"observation": [0.5, 0]})
            assert answer["policy"] == policy.content_hash
            assert answer["action"] == policy.session(5.0, 1).act(np.array([0.5, 0], np.float32)).tolist()
        assert len(server.service.sessions.engines) == 2
        client.end(before)
        assert list(server.service.sessions.engines) == [new.content_hash]


def test_a_live_server_is_checked_against_its_policy():
    policy = untrained_policy(point_data())
    with running(policy, token="a-token-of-sixteen") as server:
        promises = check_server(server.url, token="a-token-of-sixteen", policy=policy)
        assert [p["holds"] for p in promises] == [True] * 6, promises
        other = untrained_policy(point_data(), model={"n_layer": 1})
        assert [p["holds"] for p in check_server(server.url, policy=other)] == [True, True, True, False]
        engine = server.service.sessions.current
        engine.policy.normalizer.observation_mean.add_(1)  # a server that acts as another policy than it says
        fresh = untrained_policy(point_data())
        assert [p["holds"] for p in check_server(server.url, token="a-token-of-sixteen", policy=fresh)][-1] is False
    with pytest.raises(RLTransformerError, match="does not answer as rlt serve does"):
        check_server(server.url)
