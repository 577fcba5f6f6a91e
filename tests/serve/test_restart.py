"""Claims about the command: it starts safely, survives kill -9 without losing an acknowledged step, and stops in peace."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.cli.main import main
from rl_transformer.serve.client import ServerClient
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.messages import ActRequest, Outcome, Start
from rl_transformer.serve.service import Service
from rl_transformer.serve.stores import FolderStore, open_store
from tests.toys import point_data, untrained_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def policy():
    return untrained_policy(point_data())


@pytest.fixture(scope="module")
def folder(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "policy"
    policy.save(folder)
    return folder


class Command:
    """`rlt serve` as a process of its own."""

    def __init__(self, folder, log, *words):
        words = ["-m", "rl_transformer", "serve", str(folder), "--port", "0", *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, env=environment)

    def url(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"serves at (http://\S+) as", self.log.read_text())
            if found:
                return found[1]
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextmanager
def command(*arguments):
    running = Command(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_loses_no_acknowledged_step_and_a_signal_ends_it_in_peace(kills, policy, folder, tmp_path):
    """A client notes what was acknowledged; the request that is killed somewhere is sent again to the next server."""
    random = np.random.default_rng(0)
    session = None
    actions = []
    observed = 0

    def step(client):
        """Do what comes next; it counts when its answer has come."""
        nonlocal observed
        number = len(actions)
        if observed < number:
            outcome = {"reward": 0.01 * observed, "step": observed}
            client.call("POST", f"/v1/sessions/{session}/observe", outcome)
            observed += 1
        else:
            act = {"observation": [0.1 * number, 1.0], "step": number}
            actions.append(client.call("POST", f"/v1/sessions/{session}/act", act)["action"])

    for number in range(kills + 1):
        log = tmp_path / f"{number}.log"
        with command(folder, log, "--keep-sessions", tmp_path / "kept") as running:
            client = ServerClient(running.url())
            session = session or client.open(5.0, 1)
            for _ in range(3):
                step(client)
            if number < kills:
                threading.Timer(random.uniform(0, 0.05), running.process.kill).start()
                with suppress(RLTransformerError):
                    while True:
                        step(client)
            client.close()
            assert running.end(signal.SIGTERM) == (-signal.SIGKILL if number < kills else 143)
        assert "Traceback" not in log.read_text()
    assert not (tmp_path / "kept/.lock").exists()
    local = policy.session(5.0, 1)
    for number, action in enumerate(actions):
        assert local.act(np.array([0.1 * number, 1.0])).tolist() == action, number
        local.observe(0.01 * number)


def test_a_stopping_server_answers_what_it_has_accepted(folder, tmp_path, capsys):
    """Requests that wait for the forward pass are answered; SIGINT ends with 130. Its folder is its own meanwhile."""
    kept = tmp_path / "kept"
    with command(folder, tmp_path / "log", "--batch-milliseconds", "700", "--keep-sessions", kept) as running:
        url = running.url()
        assert main(["serve", str(folder), "--port", "0", "--keep-sessions", str(kept)]) == 2
        assert "is being written by another process" in capsys.readouterr().err
        clients = [ServerClient(url) for _ in range(4)]
        sessions = [client.open(5.0, 1) for client in clients]
        answers = []

        def act(client, session):
            answers.append(client.act(session, [0, 0]))

        threads = [threading.Thread(target=act, args=pair) for pair in zip(clients, sessions, strict=True)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert running.end(signal.SIGINT) == 130
        for thread in threads:
            thread.join()
        assert len(answers) == 4
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "no token protects it"),
        (["--port", "99999"], "is not a number from 0 to 65535"),
        (["--token-file", "missing"], "no such file"),
        (["--max-sessions", "0"], "--max-sessions: is 0"),
        (["--idle-seconds", "-5"], "--idle-seconds: is -5.0"),
        (["--device", "tpu"], "is not a device"),
        (["--keep-sessions", "redis://127.0.0.1:1/0"], "Redis does not answer"),
        (["--body-bytez", "5"], "did you mean --body-bytes"),
    ],
)
def test_what_the_operator_can_fix_is_one_message(words, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", str(folder), "--port", "0", *words]) == 2
    assert message in capsys.readouterr().err


# Stores


def play(service, session, steps, first=0):
    """Act and observe, and return the actions."""
    actions = []
    for step in range(first, first + steps):
        (answer,) = service.act([ActRequest(session, [0.1 * step, 1.0], step=step, digest=str(step))])
        actions.append(answer["action"])
        service.observe(session, Outcome(0.01 * step))
    return actions


@pytest.fixture(params=["folder", "redis"])
def store(request, tmp_path):
    """A function that opens the same store anew, as a restarted server does."""
    if request.param == "folder":
        yield lambda: FolderStore(tmp_path / "kept")
        return
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    path = tmp_path / "redis.sock"
    words = [
        server,
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--dir",
        str(tmp_path),
        "--daemonize",
        "no",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    opened = []

    def reopen():
        opened.append(open_store(f"unix://{path}"))
        return opened[-1]

    yield reopen
    for one in opened:
        one._client.close()
    process.terminate()
    process.wait()


def test_sessions_continue_in_the_next_server(policy, store):
    first = Service(policy, ServeLimits(), store())
    sessions = [first.open(Start(5.0, seed))["session"] for seed in range(3)]
    begun = [play(first, session, 4) for session in sessions]
    first.act([ActRequest(sessions[0], [0, 0], step=4, digest="x")])
    pending = first.sessions.find(sessions[0]).acted.answer
    first.close(sessions[2])
    second = Service(policy, ServeLimits(), store())
    assert len(second.sessions) == 2
    assert second.act([ActRequest(sessions[0], [0, 0], step=4, digest="x")]) == [pending]
    whole = Service(policy, ServeLimits())
    same = whole.open(Start(5.0, 1))["session"]
    assert play(whole, same, 8) == begun[1] + play(second, sessions[1], 4, first=4)
    assert second.sessions.end_idle(-1.0) == 2
    assert len(Service(policy, ServeLimits(), store()).sessions) == 0


def test_sessions_of_an_older_policy_continue_from_a_folder(policy, tmp_path):
    newer = untrained_policy(point_data(), model={"n_layer": 1})
    first = Service(policy, ServeLimits(), FolderStore(tmp_path / "kept"))
    old = first.open(Start(5.0, 1))["session"]
    actions = play(first, old, 2)
    assert first.sessions.use(newer)
    second = Service(newer, ServeLimits(), FolderStore(tmp_path / "kept"))
    actions += play(second, old, 2, first=2)
    local = policy.session(5.0, 1)
    for step, action in enumerate(actions):
        assert local.act([0.1 * step, 1.0]).tolist() == action
        local.observe(0.01 * step)
    assert len(list((tmp_path / "kept/policies").iterdir())) == 2
    second.close(old)
    assert [path.name for path in (tmp_path / "kept/policies").iterdir()] == [newer.content_hash]


def test_a_damaged_record_is_named_and_the_others_continue(policy, tmp_path, caplog):
    first = Service(policy, ServeLimits(), FolderStore(tmp_path / "kept"))
    sessions = [first.open(Start(5.0, seed))["session"] for seed in range(5)]
    files = [tmp_path / f"kept/sessions/{first.sessions.find(session).key}.json" for session in sessions]
    record = json.loads(files[0].read_text())
    files[0].write_text(files[0].read_text()[:-20])
    files[1].write_text(json.dumps({**record, "acted": {"step": "x"}}))
    files[2].write_text(json.dumps({**record, "state": {**record["state"], "policy": "0" * 64}}))
    files[3].write_text(json.dumps({**record, "format_version": 2}))
    (tmp_path / "kept/sessions/.x.json.tmp-01234567").write_text("left by kill -9")
    second = Service(policy, ServeLimits(), FolderStore(tmp_path / "kept"))
    assert len(second.sessions) == 1
    assert len(play(second, sessions[4], 2)) == 2
    assert len([r for r in caplog.records if "cannot be continued" in r.message]) == 4
    assert all(file.exists() for file in files), "the operator may repair what is wrong"
    assert not list((tmp_path / "kept/sessions").glob(".*"))


def test_a_step_that_cannot_be_saved_is_not_acknowledged_and_can_be_sent_again(policy, tmp_path, monkeypatch):
    service = Service(policy, ServeLimits(), FolderStore(tmp_path / "kept"))
    session = service.open(Start(5.0, 1))["session"]
    whole = FolderStore.put

    def full(*_):
        raise RLTransformerError("cannot be written", where="disk", fix="free space")

    request = ActRequest(session, [0, 0], step=0, digest="x")
    monkeypatch.setattr(FolderStore, "put", full)
    (refused,) = service.act([request])
    assert refused.status == 503
    assert "cannot be saved" in refused.problem
    monkeypatch.setattr(FolderStore, "put", whole)
    (answer,) = service.act([request])
    assert answer["step"] == 0
    monkeypatch.setattr(FolderStore, "put", full)
    for wrong in (lambda: service.observe(session, Outcome(1.0, step=0, digest="y")), lambda: service.open(Start())):
        with pytest.raises(RLTransformerError, match="cannot be saved"):
            wrong()
    assert len(service.sessions) == 1
    monkeypatch.setattr(FolderStore, "put", whole)
    assert service.observe(session, Outcome(1.0, step=0, digest="y"))["step"] == 1


def test_kept_sessions_are_for_their_owner_only(tmp_path):
    FolderStore(tmp_path / "kept")
    assert (tmp_path / "kept/sessions").stat().st_mode & 0o077 == 0
    (tmp_path / "kept/sessions").chmod(0o755)
    with pytest.raises(RLTransformerError, match="other users may read it"):
        FolderStore(tmp_path / "kept")
