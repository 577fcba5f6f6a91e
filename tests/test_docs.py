"""Claims about the documentation: its blocks run, its paths exist, and what is left out says why."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"# not run here: (.+)")
RUN, REASONED = 11, 9  # a block that is added or lost must be noticed here


def blocks():
    """Every code block that a reader may copy: (page, number, language, code, reason it is not run)."""
    for page in PAGES:
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
            if language in ("python", "bash", "sh", "yaml", "json"):
                reason = LEFT_OUT.match(code.splitlines()[0])
                yield page.relative_to(ROOT).as_posix(), number, language, code, reason and reason[1]


ALL = list(blocks())


def test_the_number_of_blocks_that_run_is_known_and_the_others_say_why():
    assert len([b for b in ALL if not b[4]]) == RUN
    left_out = [b[4] for b in ALL if b[4]]
    assert len(left_out) == REASONED
    assert all(len(reason.split()) >= 4 for reason in left_out)


@pytest.mark.parametrize("block", [b for b in ALL if not b[4]], ids=lambda b: f"{b[0]}-{b[1]}")
def test_a_block_runs_as_it_stands(block, tmp_path):
    _, _, language, code, _ = block
    assert language in ("python", "bash")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_path_that_is_named_exists():
    named = []
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        named += [(page, page.parent / target) for target in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert len(named) > 15
    assert not [(page.name, str(target)) for page, target in named if not target.exists()]


def test_every_guarding_test_exists():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/traps.md").read_text())
    assert len(named) > 35
    missing = [(file, name) for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing


def test_every_numbered_trap_is_on_the_page():
    page = (ROOT / "docs/traps.md").read_text()
    numbers = {int(n) for group in re.findall(r"T-(\d\d(?:, \d\d)*)", page) for n in group.split(", ")}
    assert numbers == set(range(1, 38))


def test_the_number_of_traps_in_the_readme_is_that_of_the_page():
    rows = (ROOT / "docs/traps.md").read_text().count(" | `test_")
    assert f"[{rows} known traps](docs/traps.md)" in (ROOT / "README.md").read_text()


def test_files_and_functions_stay_small():
    """A file is a concept and a function fits on a screen: at most 400 and 80 lines."""
    import ast

    files = sorted((ROOT / "src").rglob("*.py"))
    assert len(files) > 40
    for path in files:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, (path, node.name)


def test_no_source_unpickles_evaluates_or_names_a_machine():
    forbidden = re.compile(
        r"\bpickle\b|torch\.load\(|allow_pickle=True|yaml\.load\(|\beval\(|\bexec\(|trust_remote_code|/(?:home|root|work)/"
    )
    for path in sorted((ROOT / "src").rglob("*.py")):
        found = [
            line
            for line in path.read_text().splitlines()
            if forbidden.search(line) and "model.eval()" not in line and "swap" not in line
        ]
        found = [line for line in found if ".eval()" not in line]
        assert not found, (path, found)


def test_folders_say_their_place_in_the_flow():
    for folder in sorted((ROOT / "src/rl_transformer").rglob("__init__.py")):
        assert folder.read_text().startswith('"""'), folder


def test_released_formats_are_kept():
    from rl_transformer import open_trajectories

    store = open_trajectories(f"rlt:{ROOT / 'tests/released/store-format-1'}")
    assert (store.num_trajectories, store.num_steps) == (3, 36)
