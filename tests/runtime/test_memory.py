"""Claims about memory that runs out: one message names what to make smaller, and other errors stay what they are."""

import contextlib
import resource
import sys

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.runtime import memory, system
from rl_transformer.runtime.memory import translate_memory_errors
from rl_transformer.training.trainer import Trainer
from rl_transformer.trajectories.store import write_store
from rl_transformer.trajectories.tables.convert import convert_table
from rl_transformer.trajectories.tables.inputs import memory_input
from rl_transformer.trajectories.tables.mapping import ColumnMapping
from tests.toys import point_data, tiny_config
from tests.trajectories.table_files import as_arrow


@contextlib.contextmanager
def memory_limit(more):
    """Let this process get so many bytes more than it has."""
    with open("/proc/self/statm") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (present + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_model_too_large_for_the_memory_names_the_options_to_lower(tmp_path, capsys):
    data = point_data()
    store = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data)))).location
    words = ["train", "gym", "--data", store, "--train-steps", "2", "--windows.context_length", "3", "--training.threads", "1"]  # fmt: skip
    with memory_limit(2**30):
        assert main([*words, "--output", str(tmp_path / "run"), "--model.hidden_size", "65536"]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1
    assert "training.batch_size 64, windows.context_length 3, model.hidden_size 65536, model.n_layer 3" in message
    small = ["--output", str(tmp_path / "other"), "--model.hidden_size", "8", "--training.warmup_steps", "1"]
    assert main([*words, *small]) == 0  # the advice works


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_library_says_it_otherwise(error, tmp_path, monkeypatch):
    genuine = Trainer.backward

    def fails_at_the_sixth(trainer, step, *rest):
        if step == 6:
            raise error
        return genuine(trainer, step, *rest)

    monkeypatch.setattr(Trainer, "backward", fails_at_the_sixth)
    with pytest.raises(RLTransformerError, match=r"there is not enough memory for training\.batch_size 8") as caught:
        train(tiny_config(tmp_path / "run"), dataset=point_data())
    assert caught.value.where == "training on cpu"
    assert caught.value.__cause__ is error
    monkeypatch.setattr(Trainer, "backward", genuine)
    train(tiny_config(tmp_path / "run"), dataset=point_data(), resume=True)  # what was saved is whole
    assert load_policy(tmp_path / "run")


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_other_errors_are_passed_on(error):
    with pytest.raises(type(error)) as caught, translate_memory_errors("it", where="here", fix=""):
        raise error
    assert caught.value is error


def test_data_too_large_for_the_memory_is_answered_with_a_store(tmp_path):
    data = point_data(1)

    def episodes():
        yield data.trajectory(0)
        np.empty(2**60, np.uint8)

    with pytest.raises(RLTransformerError, match="there is not enough memory for this data at once") as caught:
        TrajectoryDataset.in_memory(data.spec, episodes(), location="huge")
    assert "rlt convert" in caught.value.fix
    write_store(tmp_path / "store", data.spec, [data.trajectory(0)])
    assert open_trajectories(tmp_path / "store").fingerprint == data.fingerprint


# Small files that become large


@pytest.fixture
def left(monkeypatch):
    """Let so many bytes of memory be left."""
    return lambda num_bytes: monkeypatch.setattr(memory, "available_memory", lambda: num_bytes)


def constant(rows):
    """Rows that compress to nearly nothing, in one episode."""
    end = np.arange(rows) == rows - 1
    return {
        "observations": np.zeros((rows, 4)),
        "actions": np.zeros((rows, 2)),
        "rewards": np.zeros(rows),
        "terminals": end,
        "timeouts": np.zeros(rows, bool),
    }


def write_d4rl_bomb(path):
    with h5py.File(path, "w") as file:
        for name, column in constant(200_000).items():
            file.create_dataset(name, data=column, chunks=True, compression="gzip")
    return f"d4rl:{path}"


def write_npz_bomb(path):
    np.savez_compressed(path, **constant(200_000))
    return f"npz:{path}.npz"


def write_parquet_bomb(path):
    pq.write_table(as_arrow(constant(200_000)), path)
    return f"parquet:{path}"


@pytest.mark.parametrize("write", [write_d4rl_bomb, write_npz_bomb, write_parquet_bomb])
def test_a_small_file_that_becomes_larger_than_the_memory_is_refused_before_it_does(write, tmp_path, left):
    uri = write(tmp_path / "bomb")
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 2**17
    left(2**22)
    with pytest.raises(RLTransformerError, match=r"take 0.01 GiB of memory, and 0.00 GiB are left") as caught:
        open_trajectories(uri)
    assert caught.value.fix
    left(2**30)
    assert open_trajectories(uri).num_steps == 200_000


def test_episodes_are_collected_only_as_long_as_there_is_memory(left, monkeypatch):
    monkeypatch.setattr("rl_transformer.trajectories.columns._BYTES_BETWEEN_LOOKS", 100)
    data = point_data(8)
    left(1000)
    with pytest.raises(RLTransformerError, match=r"its episodes take .* are left") as caught:
        TrajectoryDataset.in_memory(data.spec, (data.trajectory(i) for i in range(len(data))))
    assert "rlt convert" in caught.value.fix


def test_a_range_of_rows_larger_than_the_memory_is_refused(left, tmp_path):
    mapping = ColumnMapping.from_values({"episode": "e", "observe": "x", "action": "a"}, where="test")
    table = memory_input({"e": np.arange(4000) // 40, "x": np.ones(4000), "a": np.zeros(4000)}, where="log")
    left(1000)
    with pytest.raises(RLTransformerError, match=r"rows that belong together take .* are left"):
        convert_table(table, mapping, tmp_path / "store", source="log")
    left(2**30)
    assert convert_table(table, mapping, tmp_path / "store", source="log")["steps_out"] == 4000


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_memory_that_is_left_is_that_of_the_container(tmp_path, monkeypatch):
    whole = system.available_memory()
    assert 2**20 < whole < 2**50
    monkeypatch.setattr(system, "_CGROUP", tmp_path)
    assert system.available_memory() > 2**20  # no limit is set
    for name, content in {"max": "1000000", "current": "900000", "stat": "anon 5\ninactive_file 300000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert system.available_memory() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert system.available_memory() > 2**20
