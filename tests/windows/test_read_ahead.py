"""Claims about data on a disk: what an update reads was announced one update before, and nothing else changes."""

import mmap

import numpy as np
import pytest
import torch

from rl_transformer import train
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.runtime.system import ReadAhead
from rl_transformer.trajectories import open_trajectories
from rl_transformer.trajectories.store import write_store
from tests.toys import camera_data, tiny_config
from tests.training.runs import assert_equal_runs

STACKED = {"model": {"frame_stack": 3}}


@pytest.fixture
def store(tmp_path):
    data = camera_data()
    write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(data.num_trajectories)))
    return f"rlt:{tmp_path / 'store'}"


def test_only_memory_mapped_arrays_are_read_ahead(store, monkeypatch):
    assert ReadAhead.of(np.zeros((3, 4))) is None
    data = open_trajectories(store)
    ahead = ReadAhead.of(data.observations)
    assert ahead is not None
    ahead.announce(0, 1)
    ahead.announce(len(data.observations) - 1, len(data.observations))

    class NoAdvice:
        base = None

    monkeypatch.setattr(mmap, "mmap", NoAdvice)  # Windows: a mapping without madvise
    assert ReadAhead.of(data.observations) is None


@pytest.mark.parametrize("mode", ["c", "r"])
def test_the_announced_bytes_are_those_of_the_rows(mode, tmp_path):
    array = np.arange(6000, dtype=np.int32).reshape(60, 100)
    np.save(tmp_path / "array.npy", array)
    mapped = np.asarray(np.load(tmp_path / "array.npy", mmap_mode=mode))[10:]  # a view that begins inside of the file
    ahead = ReadAhead.of(mapped)
    asked = []
    genuine = ahead._mapping

    class Spy:
        def madvise(self, advice, begin, length):
            asked.append((advice, begin, length))
            genuine.madvise(advice, begin, length)

    ahead._mapping = Spy()
    ahead.announce(20, 30)
    ((advice, begin, length),) = asked
    content = (tmp_path / "array.npy").read_bytes()
    wanted = mapped[20:30].tobytes()
    assert advice == mmap.MADV_WILLNEED
    assert begin % mmap.PAGESIZE == 0
    assert content[begin : begin + length].endswith(wanted)
    assert length - len(wanted) < mmap.PAGESIZE


def test_every_row_of_a_batch_was_announced_by_the_update_before(store, monkeypatch, tmp_path):
    run = assemble_run(tiny_config(tmp_path / "run", **STACKED), open_trajectories(store))
    windows = run.windows
    announced = []
    monkeypatch.setattr(ReadAhead, "announce", lambda self, first, end: announced.append((first, end)))
    read = []
    genuine = torch.Tensor.index_select
    monkeypatch.setattr(
        torch.Tensor,
        "index_select",
        lambda self, dim, rows: (
            (read.extend(rows.tolist()) if self.dtype == torch.uint8 else None) or genuine(self, dim, rows)
        ),
    )
    windows.draw(4)
    expected = {row for first, end in announced for row in range(first, end)}
    announced.clear()
    read.clear()
    windows.gather(windows.draw(5))
    assert set(read) == expected


def test_training_from_a_disk_is_training_from_memory_to_the_bit(store, tmp_path):
    from_disk = train(tiny_config(tmp_path / "disk", **STACKED), dataset=open_trajectories(store))
    in_memory = train(tiny_config(tmp_path / "memory", **STACKED), dataset=camera_data())
    assert_equal_runs(from_disk, in_memory)
