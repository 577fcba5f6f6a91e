"""Claims about the commands of tests/warm.py: they end, print and find files as real interpreters do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
print(sys.argv, os.getcwd(), os.environ.get("SEEN"), __name__, sys.path[0], sys.stdin.read())
print("to stderr", file=sys.stderr)
"""
ENDS = {
    "pass": 0,
    "import sys; sys.exit(7)": 7,
    "import sys; sys.exit('words')": 1,
    "1 / 0": 1,
    "import os; os.kill(os.getpid(), 9)": 137,  # as a shell says it
}


def run(command, *words, **options):
    return subprocess.run([command, *words], capture_output=True, text=True, check=False, **options)


def test_a_program_has_its_own_arguments_folder_variables_and_streams(warm_commands, tmp_path):
    options = {"cwd": tmp_path, "env": os.environ | {"SEEN": "yes"}, "input": "given"}
    warm, cold = (run(python, "-c", PROGRAM, "a b", **options) for python in (warm_commands / "python", sys.executable))
    assert (warm.returncode, warm.stdout, warm.stderr) == (0, cold.stdout, cold.stderr)
    assert str(tmp_path) in warm.stdout
    from_stdin = run(warm_commands / "python", "-", "word", input="import sys; print(sys.argv)")
    assert from_stdin.stdout == "['-', 'word']\n"


@pytest.mark.parametrize("code", ENDS, ids=str)
def test_a_program_ends_as_in_an_interpreter_of_its_own(code, warm_commands):
    done = run(warm_commands / "python", "-c", code)
    assert done.returncode == ENDS[code]
    assert ("ZeroDivisionError" in done.stderr) == ("1 / 0" in code)


def test_rlt_is_the_command_line_and_keeps_its_exit_code(warm_path):
    done = run("rlt", "trian")
    assert (done.returncode, "did you mean train" in done.stderr) == (2, True)
    assert Path(run("bash", "-c", "command -v rlt").stdout.strip()).read_text().count("tests.warm") == 1
