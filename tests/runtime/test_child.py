"""Claims about files that harm the process that reads them: another process does first, and the harm is one message."""

import itertools
import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.runtime import child
from rl_transformer.runtime.limits import LIMITS, Limit
from tests.toys import telling_data
from tests.trajectories.foreign_files import write_d4rl


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


@pytest.fixture
def children(monkeypatch):
    """The command lines of the processes that were started."""
    started = []
    genuine = subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", lambda c, **options: started.append(c) or genuine(c, **options))
    return started


def check(path, name):
    child.check_in_child(path, f"tests.runtime.checkers:{name}")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("crashes", r"terminates the reading process \(SIGSEGV\)"),
        ("exits", r"terminates the reading process \(exit code 0\)"),
        ("hangs", "takes more than 2 seconds"),
        ("fills_the_memory", "takes more than 4 GiB of memory"),
        ("refuses", "holds something else"),
    ],
)
def test_what_a_file_does_to_its_reader_is_one_message(name, problem, file, monkeypatch):
    monkeypatch.setitem(LIMITS, "child_seconds", Limit(2 if name == "hangs" else 30, ""))
    began = time.monotonic()
    for _ in range(1 if name == "hangs" else 2):  # a refusal is not remembered as a success
        with pytest.raises(RLTransformerError, match=problem) as caught:
            check(file, name)
        assert caught.value.where == str(file)
        assert caught.value.fix
    assert time.monotonic() - began < 10


def test_seconds_without_a_processor_do_not_count(file, monkeypatch):
    """On a machine with much other work, a file of 18 MB was refused as one that hangs."""
    monkeypatch.setitem(LIMITS, "child_seconds", Limit(1, ""))
    waited = itertools.count()
    monkeypatch.setattr(child, "_seconds_without_processor", lambda pid: float(next(waited)))
    check(file, "takes_three_seconds")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux says how long a process waited")
def test_the_system_says_how_long_a_process_waited_for_a_processor():
    busy = [
        sys.executable,
        "-c",
        "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass",
    ]
    with subprocess.Popen(busy) as first, subprocess.Popen(busy) as second:
        time.sleep(1)
        waited = [child._seconds_without_processor(process.pid) for process in (first, second)]
        first.kill()
        second.kill()
    assert sum(waited) > 0.2
    assert child._seconds_without_processor(first.pid) == 0.0  # it is gone


def test_a_file_is_read_by_a_child_once_and_again_after_a_change(file, children):
    for _ in range(3):
        check(file, "passes")
    assert len(children) == 1
    file.write_bytes(b"changed")
    check(file, "passes")
    assert len(children) == 2
    with pytest.raises(RLTransformerError):
        check(file, "refuses")  # what passed one checker did not pass another


def test_what_cannot_be_read_is_left_to_the_reader_and_not_remembered(file, children):
    for _ in range(2):
        check(file, "cannot_read")
    assert len(children) == 2


def test_a_child_imports_what_this_process_does_and_nothing_of_the_present_folder(file, tmp_path, monkeypatch):
    for name in ("json.py", "h5py.py"):
        (tmp_path / name).write_text("import os; os._exit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "" not in sys.path
    check(file, "passes")


# HDF5


def test_a_genuine_file_passes_and_the_second_opening_starts_no_child(tmp_path, children):
    uri = write_d4rl(tmp_path / "d.hdf5", telling_data())
    first = open_trajectories(uri)
    assert len(children) == 1
    assert open_trajectories(uri).fingerprint == first.fingerprint == telling_data().fingerprint
    assert len(children) == 1


def test_a_name_that_is_no_text_is_refused(tmp_path):
    uri = write_d4rl(tmp_path / "d.hdf5", telling_data())
    with h5py.File(tmp_path / "d.hdf5", "a") as file:
        file[b"rew\xffards"] = [1.0]
    with pytest.raises(RLTransformerError, match="is not a valid name"):
        open_trajectories(uri)


def test_rows_too_large_for_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "child_bytes", Limit(1 << 30, ""))
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # a hole in the file, which takes no room on the disk
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((2, 1 << 30))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.NATIVE_UINT8, space, early)
    with pytest.raises(RLTransformerError, match="takes more than 1 GiB of memory"):
        open_trajectories(f"d4rl:{tmp_path / 'd.hdf5'}")


def test_groups_in_a_circle_and_in_each_other_end(tmp_path):
    path = tmp_path / "d.hdf5"
    write_d4rl(path, telling_data())
    with h5py.File(path, "a") as file:
        group = file.create_group("level")
        for _ in range(40):  # 2**40 ways through them
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["top"] = file["/"]
        file["again"] = file["rewards"]
    assert open_trajectories(f"d4rl:{path}").fingerprint == telling_data().fingerprint


def test_arrays_of_every_kind_are_read_to_their_end(tmp_path):
    """A damaged byte is met wherever it is, so that what harms a process does so in the child."""
    from rl_transformer.runtime.hdf5 import check_hdf5

    path = tmp_path / "d.hdf5"
    with h5py.File(path, "w") as file:
        file["scalar"] = 3.0
        file["nothing"] = h5py.Empty("f4")
        file["text"] = ["a", "b"]
        file.create_dataset("never written", (10, 4), "f4", chunks=(3, 2))
        file.attrs["note"] = "words"
        noise = np.random.default_rng(0).integers(0, 256, (300_000, 64), np.uint8)
        file.create_dataset("last", data=noise, chunks=(1000, 64), compression="gzip", compression_opts=1)
    check_hdf5(path)
    content = bytearray(path.read_bytes())
    content[-50_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(OSError, match="filter returned failure"):
        check_hdf5(path)
