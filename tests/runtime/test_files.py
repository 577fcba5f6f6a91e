"""Claims about writing: whatever fails, and wherever a process is killed, the old state or the new one is there, whole."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError
from rl_transformer.runtime import disk, files, lock
from rl_transformer.runtime.disk import Disk
from rl_transformer.runtime.files import (
    WriteError,
    recover_folder,
    to_json,
    translate_write_errors,
    verify_folder,
    write_array,
    write_folder,
    write_output,
    write_tensors,
    write_text,
)
from rl_transformer.runtime.free_space import check_disk_space
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.system import lock_file
from rl_transformer.training.checkpoint import newest_verified, prune_checkpoints, save_checkpoint
from rl_transformer.trajectories.store import open_store
from rl_transformer.trajectories.store_files import write_columns
from tests.runtime.faulty_disk import OPERATIONS, WAYS, FaultyDisk, Killed
from tests.toys import point_data


def fill(content):
    """Return a function that writes a text and tensors."""

    def write(folder):
        write_text(folder / "a.txt", content)
        disk.DISK.save_tensors(folder / "b.safetensors", {"w": torch.full((3,), float(len(content)))})
        write_array(folder / "c.npy", np.arange(len(content)))

    return write


def content_of(folder):
    """Return the text of a folder that is whole."""
    verify_folder(folder, required=("a.txt", "b.safetensors", "c.npy"))
    text = (folder / "a.txt").read_text()
    assert len(np.load(folder / "c.npy")) == len(text)
    return text


class NoExchange(FaultyDisk):
    """A system that cannot exchange two names in one step, such as macOS."""

    def exchange(self, one, other):
        return False


def every_failure(tmp_path, make_disk, prepare, write, monkeypatch):
    """Yield (folder, operation, way) after `write` was let fail at each of its operations, in each way."""
    counting = make_disk()
    prepare(tmp_path / "counted")
    monkeypatch.setattr(disk, "DISK", counting)
    write(tmp_path / "counted")
    count = len(counting.calls)
    assert count
    for number in range(count):
        for way in WAYS:
            place = tmp_path / f"{number}-{way}".replace(" ", "-")
            monkeypatch.setattr(disk, "DISK", Disk())
            prepare(place)
            faulty = make_disk()
            faulty.fails_at = number
            faulty.way = way
            monkeypatch.setattr(disk, "DISK", faulty)
            if way.startswith("killed"):
                # A killed process cleans nothing up. An exception would run the clean-up of the program.
                before = [shutil.rmtree, type(place).unlink]
                monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
                monkeypatch.setattr(type(place), "unlink", lambda *_, **__: None)
                with pytest.raises(Killed):
                    write(place)
                monkeypatch.setattr(shutil, "rmtree", before[0])
                monkeypatch.setattr(type(place), "unlink", before[1])
            else:
                with pytest.raises(RLTransformerError) as caught:
                    write(place)
                assert isinstance(caught.value, WriteError)
                assert str(place) in str(caught.value.where)
                assert caught.value.fix
            monkeypatch.setattr(disk, "DISK", Disk())
            yield place, faulty.calls[number][0], way
            for file in faulty.opened:  # the system closes the files of a killed process
                file.close()


@pytest.mark.parametrize("make_disk", [FaultyDisk, NoExchange])
def test_a_folder_is_the_old_one_or_the_new_one_whatever_fails(make_disk, tmp_path, monkeypatch):
    def prepare(place):
        place.mkdir()
        write_folder(place / "thing", fill("old"))

    seen = set()
    for place, operation, way in every_failure(
        tmp_path, make_disk, prepare, lambda place: write_folder(place / "thing", fill("the new one")), monkeypatch
    ):
        seen.add(operation)
        assert content_of(place / "thing") in ("old", "the new one"), (operation, way)
        # What the dead have left goes when the folder is written again.
        write_folder(place / "thing", fill("later"))
        assert content_of(place / "thing") == "later"
        assert sorted(path.name for path in place.iterdir()) in (["thing"], [".thing.lock", "thing"])
    expected = {"make_folder", "create", "write", "sync", "rename", "sync_folder", "save_tensors", "remove"}
    assert seen >= expected


def test_a_text_file_is_the_old_one_or_the_new_one_whatever_fails(tmp_path, monkeypatch):
    def prepare(place):
        write_text(place / "file.json", "old")

    for place, operation, way in every_failure(
        tmp_path, FaultyDisk, prepare, lambda place: write_text(place / "file.json", "the new one"), monkeypatch
    ):
        assert (place / "file.json").read_text() in ("old", "the new one"), (operation, way)


def test_a_report_is_the_old_one_or_the_new_one_and_leftovers_of_the_dead_go(tmp_path, monkeypatch):
    def write(place):
        write_output(place / "report.json", "the new one")

    def prepare(place):
        write_output(place / "report.json", "old")

    for place, operation, way in every_failure(tmp_path, FaultyDisk, prepare, write, monkeypatch):
        assert (place / "report.json").read_text() in ("old", "the new one"), (operation, way)
        write(place)
        assert {path.name for path in place.iterdir()} == {"report.json"}


@pytest.fixture
def trained():
    """Parts of a run with moments, small enough to be saved hundreds of times."""
    objective = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2), "loss": torch.nn.Identity()})
    optimizer = torch.optim.AdamW(objective.parameters())
    objective["model"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return objective, optimizer


def test_saving_and_pruning_checkpoints_leaves_a_whole_one_whatever_fails(trained, tmp_path, monkeypatch):
    objective, optimizer = trained

    def save(place, step):
        save_checkpoint(place / "checkpoints", step, objective, optimizer, None, {"evaluated": 0})

    def prepare(place):
        save(place, 1)
        save(place, 2)

    def write(place):
        save(place, 3)
        prune_checkpoints(place / "checkpoints", 2)

    for place, operation, way in every_failure(tmp_path, FaultyDisk, prepare, write, monkeypatch):
        newest = newest_verified(place / "checkpoints", report=False)
        assert newest is not None, (operation, way)
        assert newest.name in ("step-2", "step-3")
        save(place, 4)
        prune_checkpoints(place / "checkpoints", 2)
        left = [path.name for path in (place / "checkpoints").iterdir() if not path.name.endswith(".lock")]
        # A folder that was being removed has lost its manifest at most, and is left for the user to look at.
        assert {"step-4"} <= set(left) <= {"step-1", "step-2", "step-3", "step-4"}, (operation, way)


def test_a_store_is_whole_or_absent_whatever_fails(tmp_path, monkeypatch):
    data = point_data(2)

    def write(place):
        write_columns(place / "store", data.spec, (data.trajectory(i) for i in range(2)))

    failures = every_failure(tmp_path, FaultyDisk, lambda place: place.mkdir(), write, monkeypatch)
    for place, operation, way in failures:
        if (place / "store").exists():
            assert len(open_store(place / "store", verify=True)) == 2, (operation, way)
        else:
            write(place)
            assert [path.name for path in place.iterdir() if not path.name.endswith(".lock")] == ["store"]


def test_everything_that_is_written_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    """The order is write, sync the file, rename, sync the folder: any other can lose acknowledged content."""
    counting = FaultyDisk()
    monkeypatch.setattr(disk, "DISK", counting)
    write_text(tmp_path / "file.txt", "content")
    names = [name for name, _ in counting.calls]
    assert names == ["create", "write", "sync", "rename", "sync_folder"]
    counting.calls.clear()
    write_folder(tmp_path / "folder", fill("content"))
    last = [name for name, _ in counting.calls][-2:]
    assert last == ["rename", "sync_folder"]
    renamed_at = len(counting.calls) - 2
    synced = {str(args[0].name) for name, args in counting.calls[:renamed_at] if name == "sync"}
    assert {"a.txt", "b.safetensors", "c.npy"} <= synced
    assert any("manifest.json" in name for name in synced)


def test_sync_and_append_reach_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_text(tmp_path / "file.txt", "content")
    Disk().append(tmp_path / "rows.jsonl", b"row\n")
    assert synced[0].startswith(str(tmp_path / ".file.txt.tmp-"))
    assert synced[1:] == [str(tmp_path), str(tmp_path / "rows.jsonl")]


def test_every_operation_is_used():
    """An operation that nothing calls would not be tested by letting it fail."""
    assert set(OPERATIONS) == {
        "make_folder", "create", "write", "append", "save_tensors", "sync", "rename", "exchange", "sync_folder", "remove",
    }  # fmt: skip


def test_a_folder_whose_replacement_was_killed_between_two_renames_is_found(tmp_path):
    write_folder(tmp_path / "policy", fill("old"))
    (tmp_path / "policy").rename(tmp_path / ".policy.old-0a1b2c3d")
    assert content_of(tmp_path / "policy") == "old"  # verifying gives the name back
    # While another process is between its renames, it is left alone.
    (tmp_path / "policy").rename(tmp_path / ".policy.old-0a1b2c3d")
    with owned(tmp_path / ".policy.lock", what=tmp_path / "policy"):
        recover_folder(tmp_path / "policy")
        assert not (tmp_path / "policy").exists()


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "thing", fill("content"))
        write_tensors(tmp_path / "model.safetensors", {"w": torch.zeros(2)})
        write_text(tmp_path / "file.txt", "content")
    finally:
        os.umask(before)
    paths = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(paths) == 6
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths} == {path.name: 0o640 for path in paths}


def test_a_pipe_or_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RLTransformerError, match="is not a regular file"):
        write_text(tmp_path / "pipe", "content")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_full_disk_says_how_much_is_free_and_libraries_errors_count(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(WriteError, match="cannot be written") as caught, translate_write_errors(tmp_path / "x"):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    assert "MiB left" in caught.value.fix
    with pytest.raises(RLTransformerError, match="the checkpoints take 95,367,432 MiB"):
        check_disk_space(tmp_path / "run" / "checkpoints", 10**14, what="the checkpoints")
    check_disk_space(tmp_path / "run", 1, what="the checkpoints")


def test_a_folder_with_content_is_not_replaced_unless_meant(tmp_path):
    write_folder(tmp_path / "store", fill("first"))
    with pytest.raises(RLTransformerError, match="exists already and is not empty"):
        write_folder(tmp_path / "store", fill("second"), replace=False)

    def meanwhile(folder):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("all of it")
        fill("mine")(folder)

    with pytest.raises(RLTransformerError, match="exists already and is not empty"):
        write_folder(tmp_path / "other", meanwhile, replace=False)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "all of it"


def test_two_writers_of_one_folder_the_second_is_told_who_writes_it(tmp_path):
    began = threading.Event()
    ends = threading.Event()

    def slowly(folder):
        began.set()
        ends.wait(20)
        fill("first")(folder)

    first = threading.Thread(target=write_folder, args=(tmp_path / "store", slowly))
    first.start()
    began.wait(20)
    try:
        with pytest.raises(RLTransformerError, match="is being written by another process") as caught:
            write_folder(tmp_path / "store", fill("second"))
        assert f"process {os.getpid()}" in caught.value.problem
    finally:
        ends.set()
        first.join()
    assert content_of(tmp_path / "store") == "first"
    assert not (tmp_path / ".store.lock").exists()


def test_the_lock_of_a_killed_process_keeps_out_nobody(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom rl_transformer.runtime.lock import owned\n"
        "with owned(Path(sys.argv[1]), what=Path('thing')):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(RLTransformerError, match=rf"process {process.pid} on "),
        owned(tmp_path / "a.lock", what=tmp_path),
    ):
        pytest.fail("two processes hold the lock")
    process.kill()
    process.communicate()
    assert (tmp_path / "a.lock").exists()
    with owned(tmp_path / "a.lock", what=tmp_path):
        assert json.loads((tmp_path / "a.lock").read_bytes())["process"] == os.getpid()
    assert not (tmp_path / "a.lock").exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The last owner removes the file between opening and locking it; that lock would keep out nobody."""
    removed = []

    def lock_late(file, *, wait):
        if not removed:
            removed.append(1)
            (tmp_path / "a.lock").unlink()
        return lock_file(file, wait=wait)

    monkeypatch.setattr(lock, "lock_file", lock_late)
    with owned(tmp_path / "a.lock", what=tmp_path):
        assert removed
        with pytest.raises(RLTransformerError, match="another process"), owned(tmp_path / "a.lock", what=tmp_path):
            pytest.fail("two hold the lock")


def test_many_writers_take_turns(tmp_path):
    """A lock file is removed while others wait for it: none of them may then hold a lock that keeps out nobody."""
    inside = []
    most = []

    def work():
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            try:
                with owned(tmp_path / "a.lock", what=tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except RLTransformerError:
                pass

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) > 20
    assert max(most) == 1


def test_names_that_no_file_can_have_are_refused_by_name(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("x" * 300, "a\0b", "loop/file", "loop"):
        with pytest.raises(RLTransformerError, match="cannot be the name of a file"):
            user_path(f"{tmp_path}/{name}")
    assert user_path(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"


def test_leftovers_of_other_names_stay(tmp_path):
    for name in (".store.tmp-0a1b2c3d", ".store-2.tmp-0a1b2c3d", ".store.tmp-mine", "store.tmp-0a1b2c3d"):
        (tmp_path / name).mkdir()
    files.remove_leftovers(tmp_path, of="store")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".store-2.tmp-0a1b2c3d", ".store.tmp-mine", "store.tmp-0a1b2c3d",
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(4))
def test_a_file_that_cannot_be_written_leaves_nothing_behind(number, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "DISK", FaultyDisk(fails_at=number, way="broken"))
    with pytest.raises(WriteError):
        write_text(tmp_path / "file.txt", "content")
    assert list(tmp_path.iterdir()) == []


def test_where_names_cannot_be_exchanged_a_failed_replacement_gives_the_old_folder_its_name_back(tmp_path, monkeypatch):
    """At once: readers that only look whether the folder exists do not recover it."""

    class Failing(Disk):
        def exchange(self, one, other):
            return False

        def rename(self, old, new):
            if new == tmp_path / "thing" and ".tmp-" in old.name:
                raise OSError(5, "Input/output error")
            super().rename(old, new)

    write_folder(tmp_path / "thing", fill("old"))
    monkeypatch.setattr(disk, "DISK", Failing())
    with pytest.raises(WriteError):
        write_folder(tmp_path / "thing", fill("new"))
    assert (tmp_path / "thing" / "a.txt").read_text() == "old"


def test_only_a_whole_folder_gets_its_name_back(tmp_path):
    (tmp_path / ".policy.old-0a1b2c3d").mkdir()
    (tmp_path / ".policy.old-0a1b2c3d" / "a.txt").write_text("half of a removed folder")
    recover_folder(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_manifest_lists_the_files_that_are_required(tmp_path):
    write_folder(tmp_path / "thing", lambda folder: write_text(folder / "a.txt", "content"))
    verify_folder(tmp_path / "thing", required=("a.txt",))
    with pytest.raises(RLTransformerError, match=r"does not list a\.txt, b\.txt"):
        verify_folder(tmp_path / "thing", required=("a.txt", "b.txt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_written_as_json(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": value})
