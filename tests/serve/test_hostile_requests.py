"""Claims about clients that mean harm: all are refused within the limits, and others do not notice."""

import json
import socket
import time

import pytest

from rl_transformer.serve.live import key_of
from tests.serve.hostile_requests import HOST, JSON, hostile_requests
from tests.serve.servers import running
from tests.toys import point_data, untrained_policy

SECONDS = 0.6
LIMITS = {"body_bytes": 100_000, "read_seconds": SECONDS, "json_depth": 8, "max_connections": 20}


def exchange(port, content, seconds=20):
    """Send bytes and return everything that comes back until the server ends the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(content)
            while part := connection.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


def check_refused(server, seed, count):
    """Send hostile requests beside a victim, whose session must be as before."""
    client = server.client()
    victim = client.open(5.0, 1)
    client.act(victim, [0.1, 0.2])
    own = client.open(5.0, 2)
    client.call("POST", f"/v1/sessions/{own}/act", {"observation": [0.5, 0.5], "step": 0})
    client.observe(own, 1, step=0)
    client.call("POST", f"/v1/sessions/{own}/act", {"observation": [0.5, 0.5], "step": 1})
    ended = client.open()
    client.end(ended)
    states = [client.call("GET", f"/v1/sessions/{session}/state") for session in (victim, own)]
    live = len(server.service.sessions)
    for hostile in hostile_requests(seed, count, own=own, foreign=key_of(victim), ended=ended):
        begin = time.monotonic()
        answer = exchange(server.port, hostile.content)
        assert time.monotonic() - begin < SECONDS + 10, hostile.name
        assert len(answer) < 8000, hostile.name
        for secret in (b"Traceback", victim.encode(), b"has a fault", b'File "'):
            assert secret not in answer, hostile.name
        if not answer:
            assert hostile.may_close, hostile.name
            continue
        head, _, body = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) in hostile.statuses, (hostile.name, answer)
        if b"websocket" not in hostile.content:  # the library's own answers to what is no handshake
            # After the first answer there may be one to what follows on the connection.
            first = json.JSONDecoder().raw_decode(body.decode())[0]
            assert set(first["error"]) == {"where", "problem", "fix"}, hostile.name
    assert [client.call("GET", f"/v1/sessions/{session}/state") for session in (victim, own)] == states
    assert len(server.service.sessions) == live
    client.observe(victim, 1.0)
    assert len(client.act(victim, [0, 0])) == 1


@pytest.fixture(scope="module")
def server():
    with running(untrained_policy(point_data()), **LIMITS) as server:
        yield server


def test_hostile_requests_are_refused_and_change_nothing(server, caplog):
    check_refused(server, seed=0, count=120)
    assert not caplog.records


@pytest.mark.slow
def test_a_thousand_hostile_requests_are_refused(server, caplog):
    check_refused(server, seed=1, count=1000)
    assert not caplog.records


def test_slow_clients_are_cut_off_and_others_are_served(server):
    """A head, or a body, that arrives byte by byte (slow loris); connections that send nothing."""
    start = f"POST /v1/sessions HTTP/1.1\r\n{HOST}\r\n{JSON}\r\n"
    beginnings = [b"", b"P", start.encode(), f"{start}Content-Length: 100\r\n\r\n".encode()]
    begin = time.monotonic()
    slow = []
    for beginning in beginnings * 3:
        slow.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        slow[-1].sendall(beginning)
    client = server.client()
    session = client.open(5.0)  # while they wait
    answers = []
    for connection in slow:
        for _ in range(3):
            try:
                connection.sendall(b"a")
                time.sleep(0.02)
            except OSError:
                break
    for connection in slow:
        try:
            answers.append(connection.recv(65536))
        except ConnectionResetError:
            answers.append(b"")
        connection.close()
    assert time.monotonic() - begin < SECONDS + 8
    assert sum(b" 408 " in answer and b"--read-seconds" in answer for answer in answers) == 3
    assert len(client.act(session, [0, 0])) == 1
    client.end(session)


def test_further_connections_are_closed_at_once(server):
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(30)]
    closed = 0
    for connection in idle:
        connection.settimeout(0.05)
        try:
            closed += connection.recv(1) == b""
        except TimeoutError:
            pass
        except ConnectionResetError:
            closed += 1
        connection.close()
    assert closed >= 9
    time.sleep(0.1)
    assert server.client().request("GET", "/healthz")[0] == 200


def test_a_connection_is_kept_for_many_requests_and_many_can_be_sent_at_once(server):
    client = server.client()
    for _ in range(5):
        client.end(client.open())
    one = f"GET /readyz HTTP/1.1\r\n{HOST}\r\n\r\n".encode()
    last = f"GET /healthz HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode()
    assert exchange(server.port, one * 20 + last).count(b"200 OK") == 21
