"""Claims about a user's own module: every part of it works through the command line, from training to acting."""

import json
import os
from pathlib import Path

import pytest

from rl_transformer.cli.main import main
from tests.plugins.conftest import DATA, PARTS, PLUGIN, rlt, run_in, train_words, write_drives

DRIVE = ["--env-id", "my_plugin/Drive-v0", "--target-return", "3", "--target", "my_condition=5", "--num-episodes", "2"]
POLICY_FILES = ("policy/policy.json", "policy/policy.safetensors", "metrics.jsonl")


def test_a_policy_of_a_users_reader_encoder_head_and_condition_is_trained(ready):
    stored = json.loads((ready / "run/policy/policy.json").read_text())
    assert stored["model"]["state_encoder"] == "my_encoder"
    assert stored["model"]["action_head"] == "my_head"
    assert stored["model"]["conditions"] == ["return_to_go", "my_condition"]
    assert stored["conditions"][1]["name"] == "my_condition"
    assert stored["data"]["source"] == "drives.jsonl"


def test_no_file_of_a_run_names_the_module(ready):
    files = [path for path in (ready / "run").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path.name for path in files if b"my_plugin" in path.read_bytes()]


def test_evaluate_acts_with_the_users_parts_in_the_users_environment(ready, tmp_path):
    report = tmp_path / "report.json"
    done = rlt(ready, "evaluate", "run", "--plugin", "my_plugin", *DRIVE, "--json", report)
    assert done.returncode == 0, done.stderr
    (target,) = json.loads(report.read_text())["targets"]
    assert (target["target_return"], target["targets"]) == (3, {"my_condition": 5})
    assert target["episode_lengths"] == [10, 10]
    assert "mean fuel" in done.stdout


ACT = """
import sys

sys.path.insert(0, ".")
import my_plugin
import numpy as np
import rl_transformer as rlt

session = rlt.load_policy("run").session(3.0, targets={"my_condition": 5.0})
actions = []
for step in range(6):
    action = session.act(np.array([0.5, step / 10]))
    assert action.shape == (1,) and -1 <= action[0] <= 1
    actions.append(float(action[0]))
    session.observe(0.5, fuel=0.25)
assert len(set(actions)) > 1
assert session.conditions == {"return_to_go": 0.0, "my_condition": 3.5}
"""


def test_a_policy_is_loaded_in_python_once_its_module_is_imported(ready):
    done = run_in(ready, ["python", "-c", ACT])
    assert done.returncode == 0, done.stderr
    without = run_in(ready, ["python", "-c", ACT.replace("import my_plugin", "")])
    assert "there is no condition 'my_condition'" in without.stderr


def test_a_resumed_run_has_the_weights_and_metrics_of_an_uninterrupted_one(ready, tmp_path):
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    resumed = ["--resume", "--train-steps", "10"]
    schedule = {"training.schedule": "constant"}  # the preset's falls to zero at the last update
    for output, words in ((whole, ["--train-steps", "10"]), (parts, []), (parts, resumed)):
        done = rlt(ready, *train_words(output, PARTS, schedule), *words)
        assert done.returncode == 0, done.stderr
    assert "resumed from step 6" in done.stderr + done.stdout
    for name in POLICY_FILES:
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("conditions", ["[return_to_go]", "[]"])
def test_a_policy_around_a_users_trunk_is_trained_and_evaluated(ready, tmp_path, conditions):
    output = tmp_path / "run"
    done = rlt(ready, *train_words(output, {"model.blocks": "my_trunk", "model.conditions": conditions}))
    assert done.returncode == 0, done.stderr
    stored = json.loads((output / "policy/policy.json").read_text())
    assert stored["model"]["blocks"] == "my_trunk"
    target = [] if conditions == "[]" else DRIVE[2:4]
    done = rlt(ready, "evaluate", output, "--plugin", "my_plugin", *DRIVE[:2], *target, "--num-episodes", "2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"returns.label": "expected", "policy.target": "generated", "model.blocks": "my_trunk"},
        {"dataset.validation_fraction": 0.25, "training.ema_decay": 0.9},
        {"policy.action_selection": "sample", "training.entropy_weight": 0.01},
        {"model.arch": "behavior_cloning", "model.state_encoder": "auto", "model.conditions": "[return_to_go]"},
        {"training.trunk": "frozen", "training.precision": "bfloat16"},
        {"evaluation.env_id": "my_plugin/Drive-v0", "evaluation.targets": "{my_condition: 5}"},
    ],
    ids=str,
)
def test_a_users_parts_work_with_the_other_options_of_a_run(here, options):
    assert main(train_words("run", PARTS | options)) == 0
    assert Path("run/policy/policy.json").exists()


def test_inspect_and_convert_read_a_users_format_with_its_options(here, capsys):
    assert main(["inspect", f"{DATA}?skip=2", "--plugin", "my_plugin", "--json", "described.json"]) == 0
    assert json.loads(Path("described.json").read_text())["num_trajectories"] == 6
    assert main(["convert", DATA, "--plugin", "my_plugin", "--output", "store"]) == 0
    assert main(["inspect", "rlt:store"]) == 0
    assert "8" in capsys.readouterr().out


def test_the_option_takes_one_module_and_may_be_repeated(here):
    (here / "second.py").write_text("import pathlib\npathlib.Path('second was imported').touch()\n")
    # Before the positional argument, too: an option with several values would take it for a module.
    assert main(["inspect", "--plugin", "second", "--plugin", "my_plugin", DATA]) == 0
    assert (here / "second was imported").exists()


# Installed plugins


def install(folder, text, module="my_plugin"):
    """Write what pip leaves behind when it installs a distribution with one module and an entry point."""
    (folder / "my_plugin-1.0.dist-info").mkdir(parents=True)
    (folder / f"{module}.py").write_text(text)
    (folder / "my_plugin-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    entry_points = f"[rl_transformer.plugins]\nmine = {module}\n"
    (folder / "my_plugin-1.0.dist-info/entry_points.txt").write_text(entry_points)
    return {"PYTHONPATH": os.fspath(folder)}


def test_an_installed_plugin_needs_no_option(ready, tmp_path):
    environment = install(tmp_path / "site", PLUGIN)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_drives(elsewhere / "drives.jsonl")
    done = rlt(elsewhere, *train_words("run", PARTS, plugin=None), **environment)
    assert done.returncode == 0, done.stderr
    trained = (elsewhere / "run/policy/policy.safetensors").read_bytes()
    assert trained == (ready / "run/policy/policy.safetensors").read_bytes()
    done = rlt(elsewhere, "evaluate", "run", *DRIVE, **environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("1 / 0", "raised ZeroDivisionError while it was imported", "correct the module"),
        ("import absent_module", "cannot be imported", "install absent_module, which the plugin imports"),
        (None, "cannot be imported: No module named 'my_plugin'", "reinstall or uninstall the package"),
    ],
    ids=["raises", "lacks a dependency", "is absent"],
)
def test_an_installed_plugin_that_cannot_be_loaded_is_named_with_its_entry_point(tmp_path, text, problem, fix):
    environment = install(tmp_path / "site", text or "")
    if text is None:
        (tmp_path / "site/my_plugin.py").unlink()
    done = rlt(tmp_path, "options", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: plugin my_plugin (entry point mine): {problem}")
    assert fix in done.stderr
    assert "Traceback" not in done.stderr
