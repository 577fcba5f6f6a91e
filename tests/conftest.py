import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is imported, and for every program that a test starts: two workers whose programs each use all cores
# wait for one another, and take half as long again.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import pytest
import torch

from tests import shape_checks, warm

# Here, because this file runs before any test imports the library.
shape_checks.install()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """A hundredth of a second for each of thousands of files, and no test loses power. Order: tests/runtime/test_files.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _one_thread_and_fixed_numbers():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def warm_commands(tmp_path_factory):
    """Return a folder with the commands `rlt` and `python`, which start in milliseconds: see tests/warm.py."""
    folder = tmp_path_factory.mktemp("warm")
    warm.write_commands(folder, folder / "socket")
    server = subprocess.Popen([sys.executable, warm.__file__, str(folder / "socket")], stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    yield folder
    server.kill()
    server.communicate()


@pytest.fixture
def warm_path(warm_commands, monkeypatch):
    """Put the folder of `warm_commands` first on the path."""
    monkeypatch.setenv("PATH", str(warm_commands), prepend=os.pathsep)
