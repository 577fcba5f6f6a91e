"""Claims about the table of planted faults (`make mutants`): it fits the code, and its script can say no."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.mutants import run as script
from tests.mutants.run import TableError, check_faults, read_tables

FAULTS = read_tables()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_and_its_tests_exist(fault):
    check_faults([fault])


def test_the_table_is_about_every_part_where_a_fault_is_silent():
    files = {fault.file.removeprefix("src/rl_transformer/").partition("/")[0] for fault in FAULTS}
    assert files >= {"runtime", "training", "policy", "trajectories", "windows", "conditions", "evaluation", "models"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"old": "this is in no file"}, "is 0 times in"),
        ({"old": "import"}, "times in"),
        ({"file": "src/moved.py"}, "there is no src/moved.py"),
        ({"new": FAULTS[0].old}, "changes nothing"),
        ({"new": "(\n"}, "is no Python"),
        ({"tests": ("tests/test_removed.py",)}, "there is no test tests/test_removed.py"),
        ({"tests": ("tests/test_mutants.py::test_renamed",)}, "there is no test"),
    ],
)
def test_an_entry_that_no_longer_fits_is_named(change, problem):
    with pytest.raises(TableError, match=problem) as caught:
        check_faults([replace(FAULTS[0], **change)])
    assert str(caught.value).startswith(FAULTS[0].name)


def test_a_name_that_is_given_twice_or_an_unknown_key_is_refused(tmp_path):
    entry = '[[fault]]\nname = "a"\nwhat = "b"\nfile = "c"\nold = "d"\nnew = "e"\ntests = ["f"]\n'
    (tmp_path / "table.toml").write_text(entry * 2)
    with pytest.raises(TableError, match="given twice: a"):
        read_tables(tmp_path)
    (tmp_path / "table.toml").write_text(entry + 'reason = "g"\n')
    with pytest.raises(TableError, match="'a'"):
        read_tables(tmp_path)


PACKAGE = "def largest(values):\n    best = values[0]\n    for value in values:\n        if value > best:\n            best = value\n    return best\n"
TESTS = """
from small import largest

def test_of_two():
    assert largest([1, 2]) == 2

def test_of_nothing_much():
    assert largest([3]) == 3
"""
ENTRY = '[[fault]]\nname = "{name}"\nwhat = "w"\nfile = "src/small.py"\nold = "{old}"\nnew = "{new}"\ntests = ["tests/test_small.py{test}"]\n'
CAUGHT = ENTRY.format(name="smallest", old="value > best", new="value < best", test="")
SURVIVES = ENTRY.format(name="unseen", old="value > best", new="value < best", test="::test_of_nothing_much")
BREAKS = ENTRY.format(name="broken", old="def largest", new="def smallest", test="")


@pytest.fixture
def tree(tmp_path):
    """A small project with the script in it."""
    for folder in ("src", "tests/mutants"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/small.py").write_text(PACKAGE)
    (tmp_path / "tests/test_small.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow']\n")
    text = (script.TABLES / "run.py").read_text()
    (tmp_path / "tests/mutants/run.py").write_text(re.sub(r"(?m)^PRELOADED = .*$", "PRELOADED = ()", text))
    return tmp_path


def run(tree, table, *arguments):
    (tree / "tests/mutants/table.toml").write_text(table)
    command = [sys.executable, tree / "tests/mutants/run.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (tree / "src/small.py").read_text() == PACKAGE  # the checkout is never changed
    return done.returncode, done.stdout + done.stderr


def test_the_script_tells_caught_faults_from_those_that_survive_and_from_those_that_break_an_import(tree):
    code, output = run(tree, CAUGHT + SURVIVES + BREAKS, "--jobs", "2")
    assert code == 1, output
    assert "caught   smallest" in output
    assert "tests/test_small.py::test_of_two" in output
    assert "SURVIVED unseen" in output
    assert "UNCLEAR  broken" in output
    assert "1 of 3 faults caught" in output
    code, output = run(tree, CAUGHT + SURVIVES, "--only", "smallest")
    assert (code, "1 of 1 faults caught" in output) == (0, True), output
    assert run(tree, CAUGHT, "--only", "largest")[0] == 2


def test_tests_that_fail_without_a_fault_catch_nothing(tree):
    (tree / "tests/test_small.py").write_text(TESTS.replace("== 2", "== 1"))
    code, output = run(tree, CAUGHT)
    assert code == 2, output
    assert "without a fault, tests/test_small.py" in output


@pytest.mark.slow
def test_a_test_that_does_not_end_counts_if_the_table_says_so(tree):
    waits = TESTS + "\ndef test_forever():\n    while largest([1, 2]) == 1:\n        pass\n"
    (tree / "tests/test_small.py").write_text(waits)
    text = (tree / "tests/mutants/run.py").read_text()
    assert "SECONDS = 180" in text
    (tree / "tests/mutants/run.py").write_text(text.replace("SECONDS = 180", "SECONDS = 30"))
    entry = CAUGHT.replace("test_small.py", "test_small.py::test_forever")
    code, output = run(tree, entry)
    assert (code, "timeout  smallest" in output) == (1, True), output
    code, output = run(tree, entry + "timeout_catches = true\n")
    assert (code, "does not end, as expected" in output) == (0, True), output
