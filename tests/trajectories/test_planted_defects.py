"""Claims about the checks of data: every kind of defect is found with its place, and clean data is not refused."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from rl_transformer.trajectories.finding_kinds import finding_kinds, findings_page
from rl_transformer.trajectories.open import read_trajectories
from tests.misfortune.defects import PLANTS, every_try, is_found, is_row_found, unexpected_findings
from tests.trajectories.generated_sets import CLEAN
from tests.trajectories.planted_defects import TABLES, WITH_TABLES, clean_episodes, write

pytestmark = pytest.mark.usefixtures("minari_folder")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def minari_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def test_there_are_60_kinds_of_defects():
    assert len(PLANTS) + len(TABLES) >= 60
    known = {kind.kind for kind in finding_kinds()}
    assert {kind for kind, *_ in PLANTS.values()} <= known


@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_is_found_at_its_place(name, tmp_path):
    assert is_found(name, PLANTS[name][3][0], 0, tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_that_is_dropped_is_named(name, tmp_path):
    assert is_row_found(name, "parquet", 0, tmp_path)


def test_clean_episodes_of_every_format_have_no_warning(tmp_path):
    for form in WITH_TABLES:
        data = write(clean_episodes(1), form, tmp_path)
        data = data if form == "arrays" else read_trajectories(data)
        assert not [f for f in data.findings if f.level != "info"]


@pytest.mark.slow
def test_defects_are_found_in_every_format(tmp_path):
    """Over three seeds and all formats that can hold them: 95 % or more at the exact place."""
    missed = Counter()
    total = 0
    for seed in (1, 2, 3):
        for number, (look, name, form) in enumerate(every_try()):
            folder = tmp_path / f"{seed}-{number}"
            folder.mkdir()
            total += 1
            missed[name, form] += not look(name, form, seed, folder)
    print(f"{total - missed.total()} of {total} planted defects were found at their place; missed: {+missed}")
    assert missed.total() <= 0.05 * total


@pytest.mark.slow
def test_clean_sets_are_not_refused():
    """50 sets: no error at all; a warning only where it is true: on a grid, episodes and returns are equal to others."""
    sets = [(name, seed) for seed in range(3) for name in CLEAN][:50]
    assert len(sets) == 50
    assert {name: found for name, seed in sets if (found := unexpected_findings(name, seed + 10))} == {}


def kinds_in_source():
    """Every kind that the source gives to a Finding or to add_finding, as far as it is written there."""
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {
            t.id: n.value.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        for node in ast.walk(tree):
            name = getattr(getattr(node, "func", None), "id", getattr(getattr(node, "func", None), "attr", ""))
            if isinstance(node, ast.Call) and name in ("Finding", "add_finding") and len(node.args) > 3:
                kind = node.args[1]
                value = kind.value if isinstance(kind, ast.Constant) else constants.get(getattr(kind, "id", ""))
                if value is not None:
                    yield value


def test_every_kind_in_the_source_is_in_the_list_and_on_the_page():
    found = set(kinds_in_source())
    assert len(found) > 40
    assert not found - {kind.kind for kind in finding_kinds()}
    assert (ROOT / "docs/reference/findings.md").read_text() == findings_page()
