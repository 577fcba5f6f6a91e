"""Claims about changed files of every kind: they are refused by name or read as they were, and nothing else happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_files import attack, make_all, mutate_bytes, mutate_values

MANY = int(os.environ.get("RLT_MUTANTS", "150"))
BYTES = ("store", "policy", "replay", "run", "config", "d4rl", "minari")
TABLES = ("parquet", "csv", "jsonl", "hf")
VALUES = ("store", "policy", "run", "config", "minari")


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", "set by make_all")
        yield make_all(tmp_path_factory.mktemp("genuine"))


@pytest.mark.parametrize("kind", BYTES)
def test_a_few_changed_bytes_are_refused_or_change_nothing(kind, genuine, tmp_path):
    assert attack(kind, genuine[kind], tmp_path / "work", 4, 7, mutate_bytes)[1] == []


@pytest.mark.parametrize("kind", VALUES)
def test_a_few_hostile_values_are_refused_or_read(kind, genuine, tmp_path):
    assert attack(kind, genuine[kind], tmp_path / "work", 4, 7, mutate_values)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*BYTES, *TABLES])
def test_many_changed_bytes_are_refused_or_change_nothing(kind, genuine, tmp_path):
    counts, wrong = attack(kind, genuine[kind], tmp_path / "work", MANY, 1, mutate_bytes)
    assert wrong == []
    assert sum(counts.values()) == MANY
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", VALUES)
def test_many_hostile_values_are_refused_or_read(kind, genuine, tmp_path):
    counts, wrong = attack(kind, genuine[kind], tmp_path / "work", MANY, 1, mutate_values)
    assert wrong == []
    assert counts["refused"] > 0


AUDITED = """
import os, sys
from pathlib import Path
root = Path(sys.argv[1]).resolve()
number = int(sys.argv[2])
os.chdir(root / "here")
sys.path.insert(0, str(root / "here"))
from tests.hostile_files import BYTES_AND_VALUES, attack, make_all
from rl_transformer.runtime.child import _CODE
folders = make_all(root / "genuine")
seen = []
writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def hook(event, args):
    if event == "subprocess.Popen" and list(args[1][1:4]) == ["-I", "-c", _CODE]:
        return
    if event == "subprocess.Popen" and args[0] == "git" and "describe" in args[1]:
        return  # the version of this package, for checkpoints
    if event.startswith(("subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "socket.", "pty.")):
        seen.append((event, str(args)[:200]))
    elif event == "import" and str(args[0]).startswith(("evil", "tests.trap")):
        seen.append((event, str(args)[:200]))
    elif event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int) and args[2] & writes:
        path = Path(os.fsdecode(args[0])).absolute()
        if not path.is_relative_to(root) and path != Path(os.devnull):
            seen.append((event, str(path)))
sys.addaudithook(hook)
if len(sys.argv) > 3:
    import evil_module
    open("/tmp/rlt_control", "w").close()
for kind, mutate in BYTES_AND_VALUES:
    attack(kind, folders[kind], root / "work", number, 3, mutate)
print(*dict.fromkeys(seen), sep="\\n")
print("files", number * len(BYTES_AND_VALUES))
"""


def audited(root, number, *control):
    """Open changed files in a process that reports what it imports, starts, connects to and writes."""
    (root / "here").mkdir()
    (root / "here/evil_module.py").write_text("run = print")
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "TMPDIR": str(root)}
    command = [sys.executable, "-c", AUDITED, str(root), str(number), *control]
    path = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("(", "files"))]


@pytest.mark.slow
def test_no_file_imports_starts_connects_or_writes_elsewhere(tmp_path):
    assert audited(tmp_path, max(1, MANY // 4)) == [f"files {max(1, MANY // 4) * (len(BYTES) + len(VALUES))}"]


@pytest.mark.slow
def test_the_audit_sees_an_import_and_a_write(tmp_path):
    found = audited(tmp_path, 0, "control")
    assert any("evil_module" in line for line in found)
    assert any("rlt_control" in line for line in found)
    Path("/tmp/rlt_control").unlink()
