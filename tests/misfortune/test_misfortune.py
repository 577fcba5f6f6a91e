"""Claims about misfortune and hostile files at scale: nothing is lost, nothing is silent, nothing runs.

The slow tests run a part of what `studies/misfortune.py` runs, see docs/security.md for its results.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rl_transformer.runtime import files
from rl_transformer.training import checkpoint
from rl_transformer.training.updates import UpdateResult
from tests.hostile_files import make_all
from tests.misfortune import checkpoints, defects, logs, names, not_finite, packages, repeats, resumes, stops
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


# Each test is a small part of what `studies/misfortune.py` runs with the same code. That of resumed runs is in
# tests/training/test_resume.py, that of planted defects in tests/trajectories/test_planted_defects.py.


def test_a_few_damaged_checkpoints_are_not_used_and_not_deleted(tmp_path):
    parts, wrong = checkpoints.attack(tmp_path, 30, seed=1, only=[])
    assert wrong == []
    assert parts["another run"] == {"cases": 1, "refused": 1}


def test_a_build_that_does_not_compare_hashes_is_noticed(tmp_path, monkeypatch):
    genuine = checkpoint.verify_folder
    monkeypatch.setattr(
        checkpoint, "verify_folder", lambda *args, **options: genuine(*args, **{**options, "hashes": False})
    )
    _, wrong = checkpoints.attack(tmp_path, 40, seed=2, only=[])
    assert any("is damaged and was taken" in complaint for complaint in wrong)


def test_a_few_numbers_that_are_not_finite_end_the_run_by_name(tmp_path):
    parts, wrong = not_finite.attack(tmp_path, 5, seed=1, only=[])
    assert wrong == []
    assert sum(part.get("refused", 0) for part in parts.values()) >= 4


def test_a_build_that_makes_updates_of_nan_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(UpdateResult, "is_finite", True)
    _, wrong = not_finite.attack(tmp_path, 6, seed=1, only=["loss", "gradient", "observations", "actions"])
    assert wrong


def test_a_few_hostile_names_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "set by the attack")
    parts, wrong = names.attack(tmp_path, 50, seed=1, only=[])
    assert wrong == []
    assert parts["legitimate names"] == {"cases": 5, "accepted": 5}


def test_names_that_are_not_checked_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "below", lambda root, name: root / name)
    _, wrong = names.attack(tmp_path, 50, seed=1, only=["manifest of a checkpoint"])
    assert any("open" in complaint or "stat" in complaint for complaint in wrong)


def test_a_few_packages_that_were_tampered_with_are_refused(tmp_path):
    parts, wrong = packages.attack(tmp_path, 40, seed=1, only=[])
    assert wrong == []
    assert sum(part.get("refused", 0) for part in parts.values()) > 15


def test_a_few_random_logs_are_split_as_an_oracle_does_it():
    assert {logs.judge(logs.Log(np.random.default_rng([1, which]))) for which in range(100)} == {"split", "refused"}


def test_the_loop_of_the_published_script_is_noticed():
    """Its second episode, and every later one, is a step short if a time limit ends the first."""
    log = logs.Log(np.random.default_rng(0))
    log.layout, log.limit, log.keep = "terminals only", 5, False
    log.rewards = np.ones(25)
    log.terminals = log.timeouts = np.zeros(25, bool)
    assert logs.judge(log) == "split"
    assert logs.published_split(log)[0].lengths.tolist() == [5, 4, 4, 4, 4, 4]
    with pytest.raises(AssertionError):
        logs.judge(log, split=logs.published_split)


def test_two_runs_that_differ_in_a_byte_are_noticed(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"loss": 1}\n')
        (tmp_path / name / "timing.jsonl").write_text(name)
    assert repeats.compare(tmp_path / "one", tmp_path / "other", is_same_command=True) == "equal"
    (tmp_path / "other/metrics.jsonl").write_text('{"loss": 2}\n')
    for is_same in (True, False):
        with pytest.raises(AssertionError, match="differs"):
            repeats.compare(tmp_path / "one", tmp_path / "other", is_same_command=is_same)


def test_a_signal_stops_a_run_that_resumes_to_the_bit(tmp_path):
    parts, wrong = stops.attack(tmp_path, 1, seed=1, only=["updates"])
    assert wrong == []
    assert parts["updates"]["stopped"] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("module", "number"),
    [(resumes, 48), (names, 1000), (packages, 500), (defects, 300), (logs, 3000), (repeats, 28), (stops, 36)],
)
def test_more_of_every_family(module, number, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "set by the attack")
    parts, wrong = module.attack(tmp_path, number, seed=3, only=[])
    assert wrong == []
    assert sum(part["cases"] for part in parts.values()) >= number


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
