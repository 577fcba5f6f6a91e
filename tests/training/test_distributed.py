"""Claims about several processes that train one policy, as torchrun starts them."""

import json
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


def command(store, output, *more, ranks=2, steps=8, launcher=("--standalone",)):
    run = ["-m", "rl_transformer", "train", "gym", "--data", store, "--output", str(output), *OPTIONS]
    run += ["--train-steps", str(steps), *more]
    if ranks == 1:
        return [sys.executable, *run]
    return [sys.executable, "-m", "torch.distributed.run", *launcher, "--nproc-per-node", str(ranks), *run]


def train(*args, **kwargs):
    done = subprocess.run(command(*args, **kwargs), capture_output=True, text=True, timeout=300)
    # torch's gloo sometimes aborts a process that has finished, while it exits: the run is whole by then.
    aborted = "terminate called without an active exception" in done.stderr
    finished = aborted and (args[1] / "policy" / "manifest.json").exists()
    assert done.returncode == 0 or finished, done.stderr[-3000:]
    return done


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


@pytest.mark.parametrize(
    "more",
    [[], ["--model.action_head", "gaussian", "--training.entropy_weight", "0.1"], ["--returns.label", "expected"]],
)
def test_two_processes_learn_what_one_learns(store, tmp_path, more):
    train(store, tmp_path / "one", *more, ranks=1)
    train(store, tmp_path / "two", *more)
    same(tmp_path / "one", tmp_path / "two")


def test_checkpoints_go_from_one_number_of_processes_to_another(store, tmp_path):
    train(store, tmp_path / "whole", ranks=1, steps=12)
    train(store, tmp_path / "parts", steps=4)
    done = train(store, tmp_path / "parts", "--resume", ranks=1, steps=8)
    assert "world_size 2 -> 1" in done.stdout
    train(store, tmp_path / "parts", "--resume", steps=12)
    same(tmp_path / "whole", tmp_path / "parts")


def test_two_machines_meet_by_torchruns_rendezvous(store, tmp_path):
    train(store, tmp_path / "one", ranks=1)
    port = free_port()
    agents = [
        subprocess.Popen(
            command(
                store,
                tmp_path / "two",
                launcher=[
                    "--nnodes",
                    "2",
                    "--node-rank",
                    str(node),
                    "--master-addr",
                    "127.0.0.1",
                    "--master-port",
                    port,
                ],
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    for agent in agents:
        output, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, output[-3000:]
    metrics = rows(tmp_path / "two")
    assert [row["step"] for row in metrics] == list(range(1, 9))


def test_a_batch_that_cannot_be_shared_is_refused(store, tmp_path):
    done = subprocess.run(command(store, tmp_path / "run", ranks=3), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "8 windows cannot be shared evenly by 3 processes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_signal_stops_every_process_after_the_same_update(store, tmp_path):
    started = subprocess.Popen(
        command(store, tmp_path / "cut", steps=100_000), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
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
