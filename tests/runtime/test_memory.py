"""Claims about memory that runs out: one message names what to make smaller, and other errors stay what they are."""

import contextlib
import resource

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.runtime.memory import translate_memory_errors
from rl_transformer.training.trainer import Trainer
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data, tiny_config


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
    with pytest.raises(RLTransformerError, match=r"the memory is not enough for training\.batch_size 8") as caught:
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

    with pytest.raises(RLTransformerError, match="the memory is not enough for this data at once") as caught:
        TrajectoryDataset.in_memory(data.spec, episodes(), location="huge")
    assert "rlt convert" in caught.value.fix
    write_store(tmp_path / "store", data.spec, [data.trajectory(0)])
    assert open_trajectories(tmp_path / "store").fingerprint == data.fingerprint
