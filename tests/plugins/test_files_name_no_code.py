"""Claims about files: none of them makes the library import anything, and a missing plugin is named with the fix."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from rl_transformer.cli.main import main
from rl_transformer.runtime.files import MANIFEST, to_json, write_folder
from tests.plugins.conftest import DATA, PARTS, rlt, run_in, train_words

KEYS = ["plugin", "plugins", "auto_map"]
EVALUATE = ["--env-id", "rl_transformer/KeyToDoor-v0", "--num-episodes", "1"]


@pytest.fixture
def trap(here):
    """The name of a module that can be imported, and leaves a file behind if it is."""
    (here / "trap.py").write_text("import pathlib\npathlib.Path('trap was imported').touch()\n")
    sys.path.insert(0, str(here))
    yield "trap"
    assert "trap" not in sys.modules
    assert not (here / "trap was imported").exists()


def test_the_trap_springs_if_it_is_imported(here):
    """The tests below prove something only if importing the module would leave the file."""
    (here / "trap.py").write_text("import pathlib\npathlib.Path('trap was imported').touch()\n")
    assert main(["inspect", DATA, "--plugin", "my_plugin", "--plugin", "trap"]) == 0
    assert (here / "trap was imported").exists()


def rewrite(source, folder, file, change):
    """Write a copy of a folder in which one JSON file is changed and every hash is right."""
    manifest = json.loads((source / MANIFEST).read_text())

    def copy(temporary):
        shutil.copytree(source, temporary, dirs_exist_ok=True)
        (temporary / MANIFEST).unlink()
        (temporary / file).write_text(to_json(change(json.loads((source / file).read_text()))))
        return {name: value for name, value in manifest.items() if name != "files"}

    write_folder(folder, copy)
    return folder


@pytest.mark.parametrize("value", ["trap", ["trap"], {"AutoModel": "trap.Model"}], ids=str)
@pytest.mark.parametrize("key", KEYS)
def test_a_policy_that_names_a_plugin_is_refused_and_nothing_is_imported(ready, here, refused, trap, key, value):
    rewrite(ready / "run/policy", here / "policy", "policy.json", lambda values: values | {key: value})
    message = refused("evaluate", "policy", "--plugin", "my_plugin", *EVALUATE)
    assert message.startswith("error: policy/policy.json: names the plugin ")
    assert trap in message
    assert f"remove the field {key!r} from the file; if you trust the module, pass it as --plugin MODULE" in message


@pytest.mark.parametrize("key", KEYS)
def test_a_store_that_names_a_plugin_is_refused_and_nothing_is_imported(here, refused, trap, key):
    assert main(["convert", DATA, "--plugin", "my_plugin", "--output", "store"]) == 0
    rewrite(here / "store", here / "changed", "store.json", lambda values: values | {key: trap})
    for words in (["inspect", "rlt:changed"], ["train", "fast", "--data", "rlt:changed", "--output", "run"]):
        message = refused(*words)
        assert message.startswith("error: changed/store.json: names the plugin 'trap', and files may not name code")
        assert f"remove the field {key!r}" in message
    assert main(["inspect", "rlt:store"]) == 0


@pytest.mark.parametrize("place", [(), ("model",), ("training",)], ids=str)
@pytest.mark.parametrize("key", KEYS)
def test_a_configuration_that_names_a_plugin_is_refused_and_nothing_is_imported(ready, here, refused, trap, key, place):
    values = json.loads((ready / "run/config.json").read_text())
    section = values[place[0]] if place else values
    section[key] = trap
    Path("config.json").write_text(json.dumps(values))
    message = refused(*train_words("run"), "--config", "config.json")
    assert message.startswith(f"error: config.json: there is no option '{key}'")
    assert not Path("run").exists()


@pytest.mark.parametrize("key", KEYS)
def test_a_run_whose_configuration_names_a_plugin_is_not_resumed(ready, here, refused, trap, key):
    shutil.copytree(ready / "run", here / "run")
    values = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps(values | {key: trap}))
    message = refused(*train_words("run", PARTS), "--resume")
    assert message.startswith(f"error: run/config.json: there is no option '{key}'")


def test_a_configuration_whose_environment_names_a_module_is_refused_unless_it_is_typed(here, refused, trap):
    Path("config.json").write_text(json.dumps({"evaluation": {"env_id": f"{trap}:Trap-v0"}}))
    for name in ("train", "sweep"):
        extra = ["--space", "space.yaml", "--trials", "1"] if name == "sweep" else []
        message = refused(name, *train_words("run")[1:], *extra, "--config", "config.json")
        assert message.startswith("error: config.json: evaluation.env_id 'trap:Trap-v0' names a module")
    typed = ["--evaluation.env_id", "my_plugin:my_plugin/Drive-v0"]
    assert main([*train_words("run"), "--config", "config.json", *typed]) == 0


def test_a_search_space_whose_environment_names_a_module_is_refused(here, refused, trap):
    Path("space.yaml").write_text(f"evaluation.env_id: [my_plugin/Drive-v0, '{trap}:Trap-v0']\n")
    message = refused("sweep", *train_words("run")[1:], "--space", "space.yaml", "--trials", "1")
    assert message.startswith("error: space.yaml: evaluation.env_id 'trap:Trap-v0' names a module")


@pytest.mark.parametrize("name", ["trap", "trap:Head", "trap.Head"])
def test_the_name_of_a_part_is_a_name_and_never_a_place_to_import(ready, here, refused, trap, name):
    changes = {
        "action_head": lambda v: v | {"model": v["model"] | {"action_head": name}},
        "state_encoder": lambda v: v | {"model": v["model"] | {"state_encoder": name}},
        "blocks": lambda v: v | {"model": v["model"] | {"blocks": name}},
        "condition": lambda v: v | {"conditions": [{"name": name}, v["conditions"][1]]},
    }
    for part, change in changes.items():
        rewrite(ready / "run/policy", here / part, "policy.json", change)
        message = refused("evaluate", part, "--plugin", "my_plugin", *EVALUATE)
        assert f"error: {part}/policy.json: there is no " in message
        assert repr(name) in message


# A policy of a user's part without the module


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("model.action_head", "my_head", "action head"),
        ("model.state_encoder", "my_encoder", "state encoder"),
        ("model.conditions", "[my_condition]", "condition"),
        ("model.blocks", "my_trunk", "trunk"),
    ],
)
def test_a_policy_without_its_plugin_says_what_is_missing_and_the_fix_works(ready, tmp_path, option, value, kind):
    output = tmp_path / "run"
    done = rlt(ready, *train_words(output, {option: value}))
    assert done.returncode == 0, done.stderr
    target = ["--target", "my_condition=4"] if kind == "condition" else []
    evaluate = ["evaluate", output, "--env-id", "my_plugin:my_plugin/Drive-v0", "--num-episodes", "1", *target]
    alone = rlt(ready, *evaluate)
    assert alone.returncode == 2
    assert alone.stderr.startswith(f"error: {output}/policy/policy.json: there is no {kind} '{value.strip('[]')}'")
    assert "pass --plugin MODULE" in alone.stderr
    assert "Traceback" not in alone.stderr
    fixed = rlt(ready, *evaluate, "--plugin", "my_plugin")
    assert fixed.returncode == 0, fixed.stderr


def test_a_run_is_not_resumed_without_its_plugin_and_nothing_of_it_changes(ready, tmp_path):
    shutil.copytree(ready / "run", tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    (tmp_path / "drives.jsonl").write_text((ready / "drives.jsonl").read_text())
    words = train_words("run", PARTS, plugin=None)
    done = rlt(tmp_path, *words, "--resume", "--train-steps", "9", "--training.schedule_steps", "9")
    assert done.returncode == 2
    assert "unknown kind of data 'xyz:'" in done.stderr
    assert "a scheme of your own needs --plugin MODULE" in done.stderr
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_deploying_a_policy_needs_neither_reader_nor_environment_of_its_module(ready):
    """The module may be as small as the parts that the policy has: here without reader, trunk and environment."""
    code = """
import sys
from pathlib import Path

text = Path("my_plugin.py").read_text()
for line in ('READERS.register("xyz", XyzReader)', 'TRUNKS.register("my_trunk", MyTrunk)'):
    assert line in text
    text = text.replace(line, "")
exec(compile(text, "parts", "exec"), {"__name__": "parts"})
import rl_transformer

assert rl_transformer.load_policy("run").session(3.0, targets={"my_condition": 1.0}).act([0.0, 0.0]).shape == (1,)
"""
    done = run_in(ready, [sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
