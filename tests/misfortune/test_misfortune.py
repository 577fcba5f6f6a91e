"""Claims about misfortune and hostile files at scale: nothing is lost, nothing is silent, nothing runs.

The slow tests run a part of what `studies/misfortune.py` runs, see docs/security.md for its results.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_files import make_all
from tests.misfortune.commands import make_writers
from tests.misfortune.forked import run_forked
from tests.misfortune.fuzzing import SHARES as KINDS
from tests.misfortune.fuzzing import fuzz_kinds
from tests.misfortune.hostile import Attack, make_bombs, try_bomb
from tests.misfortune.kills import SHARES, Victim, fail_everywhere, kill_many

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("misfortune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("MINARI_DATASETS_PATH", "set by make_all")
        make_all(folder / "genuine")
        yield folder


@pytest.fixture(scope="module")
def writers(root):
    (root / "read").mkdir()
    return make_writers(root / "read")


def test_every_writing_command_has_its_share_of_the_kills(writers):
    assert set(SHARES) == set(writers)


def test_a_command_that_is_killed_or_cannot_write_leaves_a_whole_store_or_none(root, writers):
    victim = Victim("convert a store", writers["convert a store"], root)
    kill_many(victim, 3, seed=0)
    fail_everywhere(victim, 5, seed=0)
    assert victim.wrong == []
    assert victim.counts["killed"] >= 3


def test_a_result_that_a_kill_leaves_in_part_is_noticed(root, writers, monkeypatch):
    victim = Victim("convert a store", writers["convert a store"], root)
    monkeypatch.setattr(victim, "expected", "another fingerprint")
    victim.fail(len(victim.operations) - 1, "killed after")
    assert "a part of a result has its name" in victim.wrong[0]


def test_processes_that_crash_hang_or_raise_are_counted_as_such(tmp_path):
    def output(function, **options):
        return run_forked(function, tmp_path / "output.txt", **options).wrong

    assert output(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "crash (SIGKILL)"
    assert output(lambda: 0) == ""
    assert "KeyError" in output(lambda: {}["nothing"])
    assert output(lambda: os.pause() if hasattr(os, "pause") else __import__("time").sleep(60), seconds=0.2) == "hangs"


def test_a_few_hostile_files_do_nothing_anywhere(root):
    attack = Attack(root)
    for which in range(4):
        attack.try_file(5, which)
    assert attack.wrong == []


def test_the_audit_sees_what_must_not_happen(root):
    attack = Attack(root)

    def harm():
        import evil_module  # noqa: F401

        (root.parent / "elsewhere").write_text("x")
        os.system("true")
        return 0

    attack.run("harm", harm, "store", is_audited=True)
    seen = " ".join(attack.wrong)
    assert all(word in seen for word in ("import ('evil_module'", "elsewhere", "os.system"))


def test_a_few_bombs_take_little(root):
    attack = Attack(root)
    for bomb in make_bombs(root, 4, seed=3):
        seconds, mebibytes = try_bomb(attack, bomb)
        assert seconds < 5  # two on a quiet machine
        assert mebibytes < 512
    assert attack.wrong == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(SHARES))
def test_many_kills_of_every_command_change_nothing(name, root, writers):
    victim = Victim(name, writers[name], root)
    kill_many(victim, SHARES[name], seed=1)
    fail_everywhere(victim, SHARES[name], seed=1)
    assert victim.wrong == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", list(KINDS))
def test_thousands_of_changes_are_refused_or_read(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "set by make_all")
    outcomes, wrong = fuzz_kinds(tmp_path, 4000, 1, [kind])
    assert wrong == []
    assert outcomes[kind]["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hostile_files_and_bombs_are_refused_by_every_command(tmp_path):
    for family in ("files", "bombs"):
        done = subprocess.run([sys.executable, ROOT / "studies/misfortune.py", family, "--number", "60", "--seed", "1"], capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
