"""Claims about plugins: what fails while one is loaded names it, and no file can ask for one."""

import importlib
import sys
from importlib import metadata

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.conditions import CONDITIONS
from rl_transformer.runtime.plugins import GROUP, load_installed_plugins, load_plugins, refuse_named_plugins
from rl_transformer.trajectories.readers import READERS

GOOD = """
from rl_transformer.trajectories.readers import READERS

class Reader:
    usage = "lines:FILE"
    options = {}
    def open(self, path):
        raise NotImplementedError

READERS.register("lines", Reader)
"""
TAKEN = GOOD.replace('register("lines"', 'register("minari"')
INCOMPLETE = """
from rl_transformer.conditions import CONDITIONS

class Fuel:
    name = "fuel"

CONDITIONS.register("fuel", Fuel)
"""


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Return a function that writes a module into the working directory; afterwards nothing is left of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = []

    def write(name, text):
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()  # the folder may have been listed within the resolution of its clock
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
    if "lines" in READERS.names():
        READERS.unregister("lines")


def test_a_plugin_in_the_working_directory_registers_under_its_own_name(write_module):
    load_plugins([write_module("rlt_test_lines", GOOD)])
    assert READERS.owner("lines") == "rlt_test_lines"
    assert READERS.is_from_plugin("lines")
    assert READERS.get("lines", where="test").usage == "lines:FILE"


def test_loading_a_plugin_twice_registers_it_once(write_module):
    name = write_module("rlt_test_lines", GOOD)
    load_plugins([name, name])
    load_plugins([name])
    assert READERS.owner("lines") == "rlt_test_lines"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 / 0", "raised ZeroDivisionError while it was imported: division by zero"),
        ("def broken(:", "raised SyntaxError while it was imported"),
        ("from rl_transformer import nothing", "raised ImportError while it was imported"),
        ("import no_such_module_of_mine", "cannot be imported: No module named 'no_such_module_of_mine'"),
        (TAKEN, "registers the reader 'minari', which rl_transformer has registered already"),
        (INCOMPLETE, "registers the condition 'fuel', which lacks outcome, from_data"),
    ],
    ids=["raises", "no python", "wrong import", "missing dependency", "taken name", "lacks attributes"],
)
def test_a_plugin_that_fails_is_named(write_module, text, problem):
    name = write_module("rlt_test_broken", text)
    with pytest.raises(RLTransformerError) as error:
        load_plugins([name])
    assert error.value.where == "plugin rlt_test_broken"
    assert error.value.problem.startswith(problem)
    assert error.value.fix
    assert not READERS.is_from_plugin("minari")
    assert "fuel" not in CONDITIONS.names()


def test_a_missing_plugin_is_named_with_how_to_name_one(write_module):
    with pytest.raises(RLTransformerError, match="No module named 'rlt_no_such_plugin'") as error:
        load_plugins(["rlt_no_such_plugin"])
    assert error.value.where == "plugin rlt_no_such_plugin"
    assert "my_plugin.py in the working directory" in error.value.fix


def test_the_cause_of_a_failing_plugin_is_kept_for_its_author(write_module):
    with pytest.raises(RLTransformerError) as error:
        load_plugins([write_module("rlt_test_broken", "1 / 0")])
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_without_a_plugin_the_search_path_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = list(sys.path)
    load_plugins([])
    assert sys.path == before


def test_installed_plugins_are_loaded_by_their_entry_points(write_module, monkeypatch):
    names = [write_module("rlt_test_lines", GOOD), write_module("rlt_test_broken", "1 / 0")]
    points = [metadata.EntryPoint(f"entry-{name}", name, GROUP) for name in names]
    groups = []

    def entry_points(group):
        groups.append(group)
        return points

    monkeypatch.setattr(sys, "path", [".", *sys.path])
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    with pytest.raises(RLTransformerError, match="ZeroDivisionError") as error:
        load_installed_plugins()
    assert error.value.where == "plugin rlt_test_broken (entry point entry-rlt_test_broken)"
    assert READERS.owner("lines") == "rlt_test_lines"
    assert groups == ["rl_transformer.plugins"]


@pytest.mark.parametrize("key", ["plugin", "plugins", "auto_map"])
def test_a_file_that_names_code_is_refused(key):
    with pytest.raises(RLTransformerError, match="files may not name code to load") as error:
        refuse_named_plugins({"arch": "decision_transformer", key: "evil"}, where="policy.json")
    assert error.value.where == "policy.json"
    assert "'evil'" in error.value.problem
    assert f"remove the field {key!r}" in error.value.fix


def test_a_file_that_names_no_code_passes():
    refuse_named_plugins({"arch": "decision_transformer"}, where="policy.json")
