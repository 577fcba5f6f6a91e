"""Claims about locks of the system: one that waits waits, and a disk that fails is not one without locks."""

import errno
import fcntl
import os
import threading
import time

import pytest

from rl_transformer.runtime.lock import waiting_lock
from rl_transformer.runtime.system import lock_file


def test_a_waiting_lock_begins_when_the_other_one_ends(tmp_path):
    events = []
    held = threading.Event()

    def hold():
        with waiting_lock(tmp_path / "a.lock"):
            held.set()
            time.sleep(0.3)
            events.append("first ends")

    first = threading.Thread(target=hold)
    first.start()
    held.wait(20)
    with waiting_lock(tmp_path / "a.lock"):
        events.append("second begins")
    first.join()
    assert events == ["first ends", "second begins"]


@pytest.mark.parametrize(("number", "counts"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_a_file_system_without_locks_is_accepted_and_a_broken_one_is_not(number, counts, tmp_path, monkeypatch):
    def flock(file, mode):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "a.lock").open("wb") as file:
        if counts:
            assert lock_file(file, wait=False)
        else:
            with pytest.raises(OSError, match="Input/output error"):
                lock_file(file, wait=False)
