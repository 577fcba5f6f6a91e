"""Claims about systems other than Linux: what they lack has a fallback, and one module alone knows it.

macOS has no sched_getaffinity; Windows has neither that, nor fcntl, resource, folders that can be opened, or fork.
These tests take the calls away, because they run on Linux.
"""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import rl_transformer
from rl_transformer.runtime import system
from rl_transformer.runtime.files import write_text
from rl_transformer.runtime.lock import waiting_lock

SOURCE = Path(rl_transformer.__file__).parent
ONLY_SOME = re.compile(
    r"sched_getaffinity|os\.O_DIRECTORY|os\.fork|\bfcntl\b|import resource|\bmsvcrt\b|ctypes|os\.getuid|os\.statvfs|"
    r"os\.killpg|os\.setsid|signal\.SIG(KILL|HUP|USR1|ALRM)|get_context\(\"fork\"\)|\"MUJOCO_GL\"|sys\.platform"
)


def without(monkeypatch, *modules):
    """Let importing these modules fail, as it does where they do not exist."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_calls_that_only_some_systems_have_are_in_one_module():
    """Reported as vllm#19120 and surrealkv#363: a needless call of another system ends the program."""
    found = {
        str(path.relative_to(SOURCE)): ONLY_SOME.search(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
        if path.name != "system.py"
    }
    assert {path: match.group() for path, match in found.items() if match} == {}


def test_files_are_opened_as_utf_8_on_every_system():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    assert re.findall(r"\.read_text\(\)", text) == []


def test_cores_are_counted_without_an_affinity(monkeypatch):
    assert 1 <= system.usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert system.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1


def test_a_file_is_written_where_folders_cannot_be_opened(monkeypatch, tmp_path):
    """Windows raises PermissionError, which was reported as "free space there"."""
    genuine = os.open

    def as_windows(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return genuine(path, *arguments, **options)

    monkeypatch.setattr(os, "open", as_windows)
    with pytest.raises(PermissionError):  # the control: on Linux the folder is opened
        system.sync_folder(tmp_path)
    monkeypatch.delattr(os, "O_DIRECTORY")
    write_text(tmp_path / "file.txt", "content")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "content"


def test_a_lock_is_held_without_fcntl(monkeypatch, tmp_path):
    held = []

    def locking(descriptor, mode, count):
        if mode == "lock" and held and held.pop() == "another process":
            raise OSError("held by another process")
        held.append(mode)

    windows = types.SimpleNamespace(locking=locking, LK_NBLCK="lock", LK_UNLCK="unlock")
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    without(monkeypatch, "fcntl")
    held.append("another process")
    with waiting_lock(tmp_path / "a.lock"):
        assert held == ["lock"]  # closing the file releases it


def test_memory_is_unknown_without_resource(monkeypatch):
    assert system.peak_memory_mib() > 10
    without(monkeypatch, "resource")
    assert system.peak_memory_mib() is None


@pytest.mark.parametrize("name", ["darwin", "win32"])
def test_nothing_of_linux_is_used_elsewhere(name, monkeypatch):
    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    system.render_without_screen()
    system.keep_freed_memory()
    assert "MUJOCO_GL" not in os.environ
    assert not system.can_fork()


def test_every_module_imports_without_the_modules_of_posix():
    code = (
        "import sys, pkgutil, importlib\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
        "import rl_transformer\n"
        "names = [m.name for m in pkgutil.walk_packages(rl_transformer.__path__, 'rl_transformer.')]\n"
        "[importlib.import_module(n) for n in names if n.startswith('rl_transformer.') and not n.endswith('__main__')]\n"
        "print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only some systems limit the cores of a process")
def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert system.usable_cores() == 3
