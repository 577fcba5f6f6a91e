"""Claims about the WebSocket: it speaks the protocol of openpi's client, and hostile messages are errors."""

import struct
import time

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.policy.kinds import Episode
from tests.serve.servers import running
from tests.toys import point_data, untrained_policy


def packed(value):
    """What openpi_client.msgpack_numpy 0.1.2 sends for an array."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def unpacked(values):
    if b"__ndarray__" in values:
        return np.ndarray(buffer=values[b"data"], dtype=np.dtype(values[b"dtype"]), shape=values[b"shape"])
    return values


class Robot:
    """A client as openpi's is."""

    def __init__(self, server, **headers):
        self.socket = connect(
            f"ws://127.0.0.1:{server.port}", compression=None, max_size=None, additional_headers=headers or None
        )
        self.metadata = msgpack.unpackb(self.socket.recv(), object_hook=unpacked)

    def send(self, content):
        self.socket.send(content)
        answer = self.socket.recv(timeout=20)
        return answer if isinstance(answer, str) else msgpack.unpackb(answer, object_hook=unpacked)

    def infer(self, **message):
        return self.send(msgpack.packb(message, default=packed))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


@pytest.fixture(scope="module")
def point():
    with running(untrained_policy(point_data()), json_depth=8, body_bytes=100_000) as server:
        yield server


@pytest.mark.parametrize(
    "kind", ["published", "two conditions", "stacked images", "multi-discrete", "box of integers", "cloning"]
)
def test_a_robot_acts_as_a_session_does_to_the_bit(kind):
    episode = Episode(kind)
    with running(episode.policy) as server, Robot(server) as robot:
        assert robot.metadata["policy"] == episode.policy.content_hash
        for seed in (3, 4):
            local = episode.session(seed)
            for t in range(6):
                new = {"seed": seed, "target_return": episode.target, "targets": episode.targets, "reset": True}
                old = {"reward": episode.rewards[t - 1], "outcomes": episode.outcomes(t - 1)}
                answer = robot.infer(observation=episode.observations[t], **(old if t else new))
                expected = np.asarray(local.act(episode.observations[t]))
                assert answer["actions"].shape == (1, *expected.shape)
                assert answer["actions"].dtype == expected.dtype
                assert answer["actions"][0].tolist() == expected.tolist()
                assert (answer["policy"], answer["step"]) == (episode.policy.content_hash, t)
                local.observe(episode.rewards[t], **episode.outcomes(t))
            assert len(server.service.sessions) == 1


def test_an_episode_begins_and_goes_on_as_the_message_says(point):
    with Robot(point) as robot:
        first = robot.infer(observation=np.zeros(2), target_return=5.0, seed=1)
        for message, problem in (
            ({}, "lacks the field reward"),
            ({"reward": 1.0, "seed": 1}, "has no meaning within an episode"),
            ({"reward": 1.0, "reset": True}, "has no meaning at the beginning"),
            ({"reward": 1.0, "reset": 1}, "is 1"),
            ({"reward": np.nan}, "is nan"),
            ({"reward": 1.0, "speed": 3}, "has no field 'speed'"),
        ):
            assert problem in robot.infer(observation=np.zeros(2), **message), message
        executed = robot.infer(observation=np.ones(2, np.float32), reward=np.float64(0.5), action=np.array([0.25]))
        assert executed["step"] == 1
        assert "has shape" in robot.infer(observation=np.zeros(3), reset=True, target_return=5.0)
        assert robot.infer(observation=np.zeros(2), reward=None)["step"] == 2, "the refused reset has ended the episode"
        again = robot.infer(observation=np.zeros(2), reset=True, target_return=5.0, seed=1)
        assert again["actions"].tolist() == first["actions"].tolist()
    local = point.service.sessions.current.policy.session(5.0, 1)
    local.act(np.zeros(2))
    local.observe(0.5, action=[0.25])
    assert executed["actions"][0].tolist() == local.act(np.ones(2)).tolist()


def test_sessions_end_with_the_connection_and_idle_connections_end(point):
    with Robot(point) as robot:
        robot.infer(observation=np.zeros(2), target_return=5.0)
        assert len(point.service.sessions) == 1
    wait_until(lambda: len(point.service.sessions) == 0)
    with running(untrained_policy(point_data()), idle_seconds=0.3) as server, Robot(server) as robot:
        with pytest.raises(ConnectionClosed) as closed:
            robot.socket.recv(timeout=20)
        assert "--idle-seconds" in str(closed.value)


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def array(**changed):
    """A message with an observation whose description is changed."""
    values = {b"__ndarray__": True, b"data": np.zeros(2).tobytes(), b"dtype": "<f8", b"shape": [2]}
    values |= {name.encode(): value for name, value in changed.items()}
    return msgpack.packb({"observation": values, "target_return": 5.0})


DEEP = b"\x91" * 2000 + b"\xc0"
HOSTILE = {
    "objects": array(dtype="|O", data=b"\0" * 16),
    "a pickle": array(dtype="O", data=b"\x80\x04\x95", shape=[1]),
    "fields": array(dtype="<f4,<f4"),
    "a list of fields": array(dtype=[["a", "<f8"]]),
    "complex numbers": array(dtype="<c16", data=b"\0" * 32),
    "text": array(dtype="<U4", data=b"\0" * 32),
    "dates": array(dtype="<M8[s]"),
    "void": array(dtype="|V16", shape=[1]),
    "an unknown dtype": array(dtype="<f3"),
    "a dtype of bytes": array(dtype=b"<f8"),
    "a long dtype": array(dtype="<f8" * 10_000),
    "a huge shape": array(shape=[2**40]),
    "a huge product": array(shape=[2**30, 2**30, 2**30]),
    "a negative shape": array(shape=[-2]),
    "a shape of fractions": array(shape=[2.0]),
    "a shape of truths": array(shape=[True, 2]),
    "many axes": array(shape=[1] * 70 + [2]),
    "no shape": array(shape=None),
    "fewer bytes": array(data=b"\0" * 8),
    "text for bytes": array(data="0" * 16),
    "NaN": array(data=struct.pack("<2d", 0, float("nan"))),
    "infinite": array(data=struct.pack("<2d", 0, float("inf"))),
    "too large for float32": array(data=struct.pack("<2d", 0, 1e300)),
    "another shape": array(shape=[1, 2]),
    "a generic of text": msgpack.packb({"observation": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f8"}}),
    "a generic of objects": msgpack.packb({"observation": {b"__npgeneric__": True, b"data": 1, b"dtype": "|O"}}),
    "a generic out of range": msgpack.packb({"observation": {b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}}),
    "an extension": msgpack.packb({"observation": msgpack.ExtType(5, b"rm")}),
    "a time": msgpack.packb({"observation": msgpack.Timestamp(1, 2)}),
    "names that are numbers": msgpack.packb({1: 2}),
    "names that are bytes": msgpack.packb({b"observation": [0, 0]}),
    "a list": msgpack.packb([1, 2]),
    "nothing": b"",
    "half a message": array()[:-3],
    "two messages": array() * 2,
    "a promise of 4 GB": b"\xdd\xff\xff\xff\xff",
    "a map of 4 G": b"\xdf\xff\xff\xff\xff",
    "deep lists": msgpack.packb({"observation": 1})[:-1] + DEEP,
    "deep within the limits of msgpack": msgpack.packb({"observation": [[[[[[[[[[0]]]]]]]]]]}),
    "text of no UTF-8": b"\x81\xa1\xff\x01",
    "random bytes": bytes(range(256)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_a_named_error_and_the_connection_goes_on(name, point, caplog):
    with Robot(point) as robot:
        answer = robot.send(HOSTILE[name])
        assert isinstance(answer, str)
        assert '"fix"' in answer
        assert "Traceback" not in answer
        assert "has a fault" not in answer
        assert len(answer) < 2000
        assert robot.infer(observation=np.zeros(2), target_return=5.0)["step"] == 0
    assert not caplog.records


def test_text_and_messages_beyond_the_limit_are_refused(point):
    with Robot(point) as robot:
        assert "is text" in robot.send("hello")
        with pytest.raises(ConnectionClosed) as closed:
            robot.send(b"\0" * 100_001)
        assert closed.value.rcvd.code == 1009


def test_a_robot_needs_the_token_and_other_websites_are_refused():
    with running(untrained_policy(point_data()), token="a-token-for-robots") as server:
        with Robot(server, Authorization="Api-Key a-token-for-robots") as robot:
            assert robot.infer(observation=np.zeros(2), target_return=5.0)["step"] == 0
        for headers in (
            {},
            {"Authorization": "Api-Key another-token-of-x"},
            {"Authorization": "Api-Key a-token-for-robots", "Origin": "https://evil.example"},
        ):
            with pytest.raises(InvalidStatus) as refused:
                Robot(server, **headers)
            assert refused.value.response.status_code in (401, 403)
            assert b'"fix"' in refused.value.response.body
