"""Claims about the committed results: this code reads them, and would write the same figures and verdicts."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.cli.main import main
from rl_transformer.reproductions import EXPERIMENTS, find_experiment, run_cache
from rl_transformer.reproductions.checking import check_results
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.protocol import read_back, read_protocol
from rl_transformer.reproductions.reproduction import reproduce

RESULTS = Path(__file__).parents[2] / "reproductions" / "results"
FOLDERS = sorted(folder.name for folder in RESULTS.iterdir() if (folder / "result.json").exists())
VERDICTS = {"pass": "PASS", "fail": "FAIL", "not established": "not established"}


def rounded(rows):
    """Return rows without their wording, and with numbers as far as processors agree on them."""
    text = json.dumps([{**row, "what": ""} for row in rows], sort_keys=True)
    return json.loads(text, parse_float=lambda number: f"{float(number):.10g}")


def read(folder):
    """Return a committed result, its protocol in the present wording, and the setup that made it."""
    result = json.loads((folder / "result.json").read_text())
    protocol = read_protocol(folder / "protocol.json")
    setup = Setup(
        quick=False,
        seeds=result["seeds"],
        output=folder,
        data=protocol["data"],
        env_id=protocol["env_id"],
        tuning_data=protocol.get("tuning_data"),
    )
    return result, protocol, setup


def experiment_of(folder):
    """Return the experiment whose results a folder holds; one experiment may have been run on several data sets."""
    return find_experiment(json.loads((RESULTS / folder / "result.json").read_text())["name"])


def test_every_experiment_has_committed_results():
    assert {experiment_of(folder).name for folder in FOLDERS} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_committed_figure_follows_from_its_cells(name):
    assert check_results(experiment_of(name), RESULTS / name) == []
    result, protocol, _ = read(RESULTS / name)
    assert not result["quick"]
    # Options may have been renamed since the protocol was written.
    assert result["recipe"] in (
        protocol["recipe"],
        json.loads((RESULTS / name / "protocol.json").read_text())["recipe"],
    )
    assert protocol["rules"] == experiment_of(name).rules


def _edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    "a mean of a cell": ("cells/dt-seed-1.json", lambda cell: cell.update(mean=cell["mean"] + 1), "is not that of its"),
    "an episode of a cell": ("cells/dt-seed-1.json", lambda cell: cell["episodes"][0].pop(), "is not that of its"),
    "the seed in a cell": ("cells/dt-seed-1.json", lambda cell: cell.update(seed=2), "is of another cell"),
    "a row": ("result.json", lambda result: result["rows"][0].update(mean=1.0), "rows does not follow"),
    "a bound": ("result.json", lambda result: result["rows"][1]["interval"].reverse(), "rows does not follow"),
    "the verdict": ("result.json", lambda result: result.update(verdict="pass"), "verdict does not follow"),
    "a check": ("result.json", lambda result: result["rules"]["level"].update(holds=True), "rules does not follow"),
    "a rule": (
        "protocol.json",
        lambda protocol: protocol["rules"].update(level="easier"),
        "are not those of the present",
    ),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_figure_that_does_not_follow_from_the_cells_is_named(what, tmp_path, capsys):
    shutil.copytree(RESULTS / "percent-bc", tmp_path / "percent-bc")
    file, change, message = DAMAGE[what]
    _edit_json(tmp_path / "percent-bc" / file, change)
    assert main(["reproduce", "percent-bc", "--check", "--output", str(tmp_path / "percent-bc")]) == 1
    assert message in capsys.readouterr().out


def test_a_sentence_of_a_page_that_was_edited_by_hand_is_named(tmp_path):
    shutil.copytree(RESULTS / "percent-bc", tmp_path / "percent-bc")
    page = tmp_path / "percent-bc" / "README.md"
    lines = page.read_text().splitlines()
    page.write_text("\n".join(["# Decision Transformer against %BC: PASSED", *lines[1:]]))
    (mismatch,) = check_results(find_experiment("percent-bc"), tmp_path / "percent-bc")
    assert mismatch.startswith("README.md, line 1:")


def seeds_of(name):
    """Return the training seeds of an experiment whose policies were trained; 0 where all of them were left out."""
    cells = [json.loads(file.read_text()) for file in (RESULTS / name / "cells").iterdir()]
    of_policies = [cell for cell in cells if "seed" in cell]
    return 0 if of_policies and all(cell.get("skipped") for cell in of_policies) else read(RESULTS / name)[0]["seeds"]


def test_every_experiment_is_in_the_table_of_the_page_with_verdict_seeds_cost_and_commits():
    page = (RESULTS.parent.parent / "docs" / "reproductions.md").read_text()
    for name in FOLDERS:
        result, _, _ = read(RESULTS / name)
        changed = {True: " + changes", False: ""}  # uncommitted ones
        commits = ", ".join(commit[:7] + changed[commit.endswith("-dirty")] for commit in result["git_commits"])
        cost = f"{result['core_seconds'] / 60:.0f} min"
        begin = f"| [{name}](../reproductions/results/{name}/README.md) | {VERDICTS[result['verdict']]} | {seeds_of(name)} |"
        assert begin in page
        (line,) = [line for line in page.splitlines() if line.startswith(begin)]
        assert line.endswith(f"| {cost} | {commits} |")


def test_policies_that_several_pages_share_are_said_to_be_shared():
    """The page of all experiments lists which of them use the same policies, by the names in their cells."""
    owners = {}
    for name in FOLDERS:
        for file in (RESULTS / name / "cells").iterdir():
            for policy in json.loads(file.read_text()).get("policies", []):
                owners.setdefault(policy["policy"], set()).add(name)
    shared = sorted({name for names in owners.values() if len(names) > 1 for name in names})
    page = (RESULTS.parent.parent / "docs" / "reproductions.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("Policies shared by several pages: ")]
    assert re.findall(r"`([a-z0-9-]+)`", line) == shared


@pytest.mark.parametrize("name", FOLDERS)
def test_a_committed_folder_is_continued_without_training(name, tmp_path, monkeypatch, capsys):
    if name == "key-to-door":
        pytest.skip("it first records 34,000 walks; test_key_to_door_is_continued_without_training does so")
    shutil.copytree(RESULTS / name, tmp_path / name)
    result, protocol, _ = read(RESULTS / name)
    monkeypatch.setattr(run_cache, "train", lambda *_, **__: pytest.fail("a policy was trained"))
    # The data of the control tasks and of the door is not in the repository, and Atari's games would be played for minutes; what
    # identifies the data is there.
    experiment = experiment_of(name)
    if experiment.takes_data or name in ("atari", "door"):
        monkeypatch.setattr(type(experiment), "prepare", lambda self, setup: protocol.get("identity_of_data", {}))
    _assert_continued(name, tmp_path, result, protocol, capsys)


@pytest.mark.slow
def test_key_to_door_is_continued_without_training(tmp_path, monkeypatch, capsys):
    name = "key-to-door"
    shutil.copytree(RESULTS / name, tmp_path / name)
    result, protocol, _ = read(RESULTS / name)
    monkeypatch.setattr(run_cache, "train", lambda *_, **__: pytest.fail("a policy was trained"))
    _assert_continued(name, tmp_path, result, protocol, capsys)


def _assert_continued(name, folder, result, protocol, capsys):
    setup = Setup(
        quick=False,
        seeds=result["seeds"],
        output=folder / name,
        data=protocol["data"],
        env_id=protocol["env_id"],
        tuning_data=protocol.get("tuning_data"),
    )
    cells = sorted((folder / name / "cells").iterdir())
    contents = [cell.read_bytes() for cell in cells]
    experiment = experiment_of(name)
    count = len(experiment.cells(setup))  # there may be cells of further seeds, which are not finished
    again = reproduce(experiment, setup, jobs=1, command=result["command"])
    assert f"{experiment.name}: {count} cells, {count} of them measured before" in capsys.readouterr().out
    assert again["verdict"] == result["verdict"]
    changing = {"versions", "hardware", "recipe", "rules", "rows"}
    assert {k: v for k, v in read_back(again).items() if k not in changing} == {
        k: v for k, v in result.items() if k not in changing
    }
    assert rounded(read_back(again["rows"])) == rounded(result["rows"])
    assert [cell.read_bytes() for cell in sorted((folder / name / "cells").iterdir())] == contents


def test_a_protocol_of_an_earlier_version_with_other_options_is_refused(tmp_path):
    name = "wikipedia"
    shutil.copytree(RESULTS / name, tmp_path / name)
    _, _, setup = read(tmp_path / name)
    path = tmp_path / name / "protocol.json"
    present = path.read_text()
    assert '"training.ema_decay": 0.999' in present
    path.write_text(present.replace('"training.ema_decay": 0.999', '"training.average_decay": 0.5'))
    with pytest.raises(RLTransformerError, match="made with another presets"):
        reproduce(find_experiment(name), setup, jobs=1, command="rlt reproduce percent-bc")


def test_options_of_earlier_versions_are_read_at_any_depth(tmp_path):
    options = {"training.average_decay": 0.9, "model.attention": "streaming", "model.conditions": []}
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps({"recipe": {"arms": {"a": {"options": options}}, "listed": [options]}, "rules": {}}))
    present = {"training.ema_decay": 0.9, "model.attention": "sliding_window", "model.conditions": []}
    assert read_protocol(path)["recipe"] == {"arms": {"a": {"options": present}}, "listed": [present]}
