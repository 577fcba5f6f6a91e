"""Claims about how differences are judged, and about what identifies the code that measured."""

import ast
import shutil

import numpy as np
import pytest
from scipy import stats

from rl_transformer.evaluation.differences import equivalent, not_worse
from rl_transformer.evaluation.statistics import ratio_over_seeds
from rl_transformer.reproductions import code_hash, find_experiment
from rl_transformer.reproductions.provenance import compact_returns, mean_of_returns


def difference(low, high):
    return {"mean": (low + high) / 2, "interval": [low, high]}


@pytest.mark.parametrize(
    ("low", "high", "holds", "outcome"),
    [
        (1, 30, True, "better"),
        (-9, 30, True, "not worse within the margin"),
        (-9, -1, True, "not worse within the margin"),
        (-11, 30, None, "not established"),
        (-300, 300, None, "not established"),  # few seeds are no way to pass
        (-30, -9, None, "not established"),
        (-30, -11, False, "worse by more than the margin"),
    ],
)
def test_not_worse_has_a_margin_and_three_outcomes(low, high, holds, outcome):
    check = not_worse(difference(low, high), 10)
    assert check.holds is holds
    assert check.result.endswith(f"margin 10: {outcome}")


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(-9, 9, True), (1, 9, True), (-11, 9, None), (-9, 11, None), (11, 20, False), (-20, -11, False), (-99, 99, None)],
)
def test_no_relevant_difference_needs_the_whole_interval_inside_the_margin(low, high, holds):
    assert equivalent(difference(low, high), 10).holds is holds


def test_one_seed_establishes_nothing():
    one = {"mean": 50.0, "interval": None}
    assert not_worse(one, 10).holds is None
    assert equivalent(one, 10).holds is None


def test_the_interval_of_a_ratio_holds_the_ratios_that_a_paired_test_does_not_reject():
    random = np.random.default_rng(0)
    below = random.normal(10, 1, 6)
    above = 0.8 * below + random.normal(0, 0.5, 6)
    found = ratio_over_seeds(above.tolist(), below.tolist())
    low, high = found["interval"]
    assert low < found["ratio"] < high
    for ratio, is_inside in ((low - 1e-3, False), (low + 1e-3, True), (high - 1e-3, True), (high + 1e-3, False)):
        p_value = stats.ttest_1samp(above - ratio * below, 0)[1]
        assert bool(p_value > 0.05) is is_inside
    assert ratio_over_seeds([1.0], [2.0]) == {"ratio": 0.5, "interval": None}
    # A denominator that may be 0 leaves the ratio without bounds.
    assert ratio_over_seeds([1.0, 2.0], [-1.0, 1.5])["interval"] is None


def test_the_interval_of_a_ratio_covers_it_in_95_percent():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        below = random.normal(10, 2, 5)
        above = 0.9 * below + random.normal(0, 1, 5)
        low, high = ratio_over_seeds(above.tolist(), below.tolist())["interval"]
        hits += low <= 0.9 <= high
    assert 0.935 < hits / 2000 < 0.965


@pytest.mark.parametrize("returns", [[0.0, 1.0, 1.0, 0.0], [1.5, 2.5, 3.5], [5.0] * 30, list(np.linspace(0, 1, 50))])
def test_a_cell_keeps_its_episodes_in_little_space(returns):
    assert mean_of_returns(compact_returns(returns)) == pytest.approx(np.mean(returns))


EFFECTIVE_SOURCE = code_hash._effective_source
EFFECTIVE_SOURCES = {}


def copied_engine(tmp_path, monkeypatch):
    package = tmp_path / "rl_transformer"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(code_hash._PACKAGE, package, ignore=ignored)
    monkeypatch.setattr(code_hash, "_PACKAGE", package)

    def effective_source(path):
        """Parsing the whole package takes a second, and all files but one are those of the test before."""
        known = path.parent.name, path.read_bytes()
        if known not in EFFECTIVE_SOURCES:
            EFFECTIVE_SOURCES[known] = EFFECTIVE_SOURCE(path)
        return EFFECTIVE_SOURCES[known]

    monkeypatch.setattr(code_hash, "_effective_source", effective_source)
    return package


def hashes(experiment):
    code_hash.engine_hash.cache_clear()
    return code_hash.engine_hash(), code_hash.code_hash(experiment)


@pytest.mark.parametrize(
    ("file", "before", "after", "engine_changes", "cells_change"),
    [
        ("models/trunk/gpt2.py", "self.ln_f = nn.LayerNorm(", "self.ln_f = nn.Identity(", True, True),
        ("models/trunk/gpt2.py", "self._initialize()\n", "self._initialize()  # a comment\n", False, False),
        ("cli/reproduce.py", "args.jobs", "args.seeds", False, False),
        ("reproductions/page.py", "digits = 1", "digits = 2", False, False),
        ("reproductions/graph.py", '"walks": 1_000', '"walks": 999', False, True),
        ("reproductions/graph.py", '"optimal": float(sum', '"optimal": float(len', False, True),
        ("reproductions/graph.py", "20 nodes, an edge", "Twenty nodes, an edge", False, False),
        ("reproductions/graph.py", 'optimal["worst"]["mean"] >= 0.9', 'optimal["worst"]["mean"] >= 0.5', False, False),
        ("reproductions/context.py", "LENGTH = 10", "LENGTH = 11", False, False),
        ("reproductions/run_cache.py", "EVALUATION_SEED = 1_000_000", "EVALUATION_SEED = 1", False, True),
        ("critics/tabular.py", "import numpy as np", "import numpy", False, False),
    ],
)
def test_the_hash_of_the_code_follows_what_trains_and_measures(
    file, before, after, engine_changes, cells_change, tmp_path, monkeypatch
):
    package = copied_engine(tmp_path, monkeypatch)
    experiment = find_experiment("graph")
    engine, cells = hashes(experiment)
    source = (package / file).read_text()
    assert before in source
    changed = source.replace(before, after)
    ast.parse(changed)
    (package / file).write_text(changed)
    engine_now, cells_now = hashes(experiment)
    code_hash.engine_hash.cache_clear()
    assert (engine_now != engine) is engine_changes
    assert (cells_now != cells) is cells_change


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("critics/tabular.py", "import numpy as np", "import numpy"),
        ("reproductions/judged_tables.py", "import numpy as np", "import numpy"),
        ("evaluation/offline/estimators.py", "import numpy as np", "import numpy"),
    ],
)
def test_the_hash_of_a_trial_of_the_judge_follows_the_critics_estimators_and_helpers_it_imports(
    file, before, after, tmp_path, monkeypatch
):
    package = copied_engine(tmp_path, monkeypatch)
    experiment = find_experiment("judge")
    engine, cells = hashes(experiment)
    source = (package / file).read_text()
    assert before in source
    (package / file).write_text(source.replace(before, after))
    engine_now, cells_now = hashes(experiment)
    code_hash.engine_hash.cache_clear()
    assert engine_now == engine
    assert cells_now != cells


def test_the_hash_is_of_lines_as_they_stand_so_that_every_version_of_python_finds_the_same_one():
    for path in sorted(code_hash._PACKAGE.rglob("*.py")):
        lines = iter(path.read_text().splitlines())
        # In order, each one the beginning of a line of the file: nothing is written anew.
        for kept in code_hash._effective_source(path).splitlines():
            assert any(line.startswith(kept) for line in lines), (path, kept)
