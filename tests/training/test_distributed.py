"""Claims about several processes that train one policy, as torchrun starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rl_transformer import load_policy
from rl_transformer.cli.main import main
from rl_transformer.runtime.signals import STOP_SIGNALS, StopSignals
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.trajectories.store import write_store
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import point_data

OPTIONS = [
    "--model.hidden_size", "16", "--model.n_layer", "2", "--windows.context_length", "5", "--training.batch_size", "8",
    "--model.resid_pdrop", "0", "--model.embd_pdrop", "0", "--model.attn_pdrop", "0", "--training.warmup_steps", "2",
    "--training.learning_rate", "1e-3", "--checkpoint-every", "4", "--training.ema_decay", "0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "data"
    data = point_data()
    write_store(folder, data.spec, (data.trajectory(i) for i in range(len(data))))
    return f"rlt:{folder}"


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def words(store, output, *more, steps=8):
    return ["train", "gym", "--data", store, "--output", str(output), *OPTIONS, "--train-steps", str(steps), *more]


def torchrun(*args, launcher=("--standalone", "--nproc-per-node", "2"), **kwargs):
    """Start two processes as users do."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *launcher,
        "-m",
        "rl_transformer",
        *words(*args, **kwargs),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train_alone(*args, **kwargs):
    assert main(words(*args, **kwargs)) == 0


@pytest.fixture
def train_in_two(warm_commands):
    """Return a function that trains in two processes, with the variables that torchrun sets."""

    def train(*args, **kwargs):
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        processes = [
            subprocess.Popen(
                [warm_commands / "rlt", *words(*args, **kwargs)],
                env=os.environ | group | {"RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in "01"
        ]
        for process in processes:
            output, _ = process.communicate(timeout=300)
            # torch's gloo sometimes aborts a process that has finished, while it exits: the run is whole by then.
            aborted = "terminate called without an active exception" in output
            finished = aborted and (args[1] / "policy" / "manifest.json").exists()
            assert process.returncode == 0 or finished, output[-3000:]

    return train


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other, tolerance=1e-5):
    assert [row["step"] for row in rows(one)] == [row["step"] for row in rows(other)]
    for left, right in zip(rows(one), rows(other), strict=True):
        assert left == pytest.approx(right, rel=tolerance, abs=tolerance)
    policies = [load_policy(folder) for folder in (one, other)]
    weights = [torch.cat([t.flatten() for t in policy.model.state_dict().values()]) for policy in policies]
    apart = (weights[0] - weights[1]).abs()
    # Adam divides by the size of a gradient: where it is next to nothing, its last bits decide.
    assert (apart > tolerance).float().mean() < 0.005
    assert apart.max() < 1e-3
    acted = [policy.session(6.0).act(np.array([0.3, 0.1], np.float32)) for policy in policies]
    assert acted[0] == pytest.approx(acted[1], abs=tolerance)


GAUSSIAN = ["--model.action_head", "gaussian", "--training.entropy_weight", "0.1"]
EXPECTED = ["--returns.label", "expected"]


# Both at once; each alone, and neither, are slow tests.
@pytest.mark.parametrize(
    "more", [[*GAUSSIAN, *EXPECTED], *[pytest.param(more, marks=pytest.mark.slow) for more in ([], GAUSSIAN, EXPECTED)]]
)
def test_two_processes_learn_what_one_learns(store, tmp_path, more, train_in_two):
    train_alone(store, tmp_path / "one", *more)
    train_in_two(store, tmp_path / "two", *more)
    same(tmp_path / "one", tmp_path / "two")


def test_checkpoints_go_from_one_number_of_processes_to_another(store, tmp_path, capsys, train_in_two):
    train_alone(store, tmp_path / "whole", steps=12)
    train_in_two(store, tmp_path / "parts", steps=4)
    train_alone(store, tmp_path / "parts", "--resume", steps=8)
    assert "world_size 2 -> 1" in capsys.readouterr().out
    train_in_two(store, tmp_path / "parts", "--resume", steps=12)
    same(tmp_path / "whole", tmp_path / "parts")


def test_two_machines_meet_by_torchruns_rendezvous(store, tmp_path):
    machines = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port()]
    agents = [torchrun(store, tmp_path / "two", launcher=[*machines, "--node-rank", node]) for node in "01"]
    for agent in agents:
        output, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, output[-3000:]
    metrics = rows(tmp_path / "two")
    assert [row["step"] for row in metrics] == list(range(1, 9))


def test_a_batch_that_cannot_be_shared_is_refused(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun sets it; the processes do not come to meet each other
    assert main(words(store, tmp_path / "run")) == 2
    assert "8 windows cannot be shared evenly by 3 processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_signal_stops_every_process_after_the_same_update(store, tmp_path):
    started = torchrun(store, tmp_path / "cut", steps=100_000)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut" / "checkpoints").glob("step-*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=90)
    assert started.returncode != 0
    newest = max(
        int(path.name.removeprefix("step-")) for path in (tmp_path / "cut" / "checkpoints").glob("step-[0-9]*")
    )
    assert rows(tmp_path / "cut")[-1]["step"] == newest, output[-2000:]


def test_shares_are_the_batch_in_order():
    index = WindowIndex(np.arange(12), np.arange(12) * 10)
    parts = [ProcessGroup(rank, 3).shard(index) for rank in range(3)]
    assert np.array_equal(np.concatenate([part.rows for part in parts]), index.rows)
    assert np.array_equal(np.concatenate([part.trajectories for part in parts]), index.trajectories)
    assert ProcessGroup().shard(index).rows is not None
    assert ProcessGroup().all_reduce_sum(1.5, torch.tensor(2.0)).tolist() == [1.5, 2.0]


@pytest.mark.parametrize("received", [(None, signal.SIGINT), (signal.SIGTERM, None), (signal.SIGTERM, signal.SIGINT)])
def test_all_processes_stop_for_one_signal_that_one_of_them_received(received):
    """A mean of 2 and 15 would be a signal that nobody sent."""
    flags = [[float(own == number) for number in STOP_SIGNALS] for own in received]
    summed = torch.tensor([1.0, *np.sum(flags, axis=0)], dtype=torch.float64)
    stopped = set()
    for own in received:
        signals = StopSignals()
        signals.received = own
        group = SimpleNamespace(world_size=2, all_reduce_sum=lambda *values: summed)
        EagerUpdates(SimpleNamespace(group=group, signals=signals))._global_loss(torch.tensor(0.5))
        stopped.add(signals.received)
    assert len(stopped) == 1
    assert stopped <= set(received)
