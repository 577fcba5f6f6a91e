"""Claims about the committed results: this code reads them, and would write the same figures and verdicts."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rl_transformer import RLTransformerError
from rl_transformer.reproductions import EXPERIMENTS, find_experiment, run_cache
from rl_transformer.reproductions.cells import cell_file
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.page import as_page
from rl_transformer.reproductions.protocol import present_wording, read_back, read_protocol
from rl_transformer.reproductions.reproduction import reproduce, verdict

RESULTS = Path(__file__).parents[2] / "reproductions" / "results"
VERDICTS = {"pass": "PASS", "fail": "FAIL", "not established": "not established"}


def read(folder):
    """Return a committed result, its protocol in the present wording, and the setup that made it."""
    result = json.loads((folder / "result.json").read_text())
    protocol = read_protocol(folder / "protocol.json")
    setup = Setup(quick=False, seeds=result["seeds"], output=folder, data=protocol["data"], env_id=protocol["env_id"])
    return result, protocol, setup


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_committed_result_is_what_the_present_code_says_of_its_cells(name):
    folder = RESULTS / name
    experiment = find_experiment(name)
    result, protocol, setup = read(folder)
    assert not result["quick"]
    assert protocol["rules"] == experiment.rules
    assert protocol["recipe"] == read_back(experiment.recipe(setup))
    assert json.loads((folder / "protocol.json").read_text())["recipe"] == result["recipe"]
    cells = experiment.cells(setup)
    measured = [json.loads(cell_file(setup, cell).read_text()) for cell in cells]
    assert all(row | cell == row for row, cell in zip(measured, cells, strict=True))
    summary = experiment.summarize(measured, setup)
    rows = [{**row, "what": present_wording(row["what"])} for row in result["rows"]]
    assert read_back([{"what": r.what, **r.score, "published": r.published} for r in summary.rows]) == rows
    assert read_back(summary.figures) == {key: result[key] for key in summary.figures}
    assert {rule: (check["holds"], check["found"]) for rule, check in result["rules"].items()} == summary.checks
    assert verdict(experiment, setup, summary) == result["verdict"]
    page = (RESULTS.parent.parent / "docs" / "reproductions.md").read_text()
    assert f"[{name}](../reproductions/results/{name}/README.md) | {VERDICTS[result['verdict']]} |" in page


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_committed_page_is_what_the_present_code_writes_of_its_result(name):
    folder = RESULTS / name
    experiment = find_experiment(name)
    result, _, setup = read(folder)
    measured = [json.loads(cell_file(setup, cell).read_text()) for cell in experiment.cells(setup)]
    for rule, check in result["rules"].items():
        check["rule"] = experiment.rules[rule]
    written = as_page(experiment, experiment.summarize(measured, setup), result).splitlines()
    committed = (folder / "README.md").read_text().splitlines()
    assert committed[0] == f"# {experiment.title}: {VERDICTS[result['verdict']]}"
    for line, other in zip(written, committed, strict=True):
        if "Versions: " in line:  # result.json has them in another order
            line, other = (sorted(re.split(r"[ ,.]+", text)) for text in (line, other))
        assert line == other


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_a_committed_folder_is_continued_without_training(name, tmp_path, monkeypatch, capsys):
    if name == "key-to-door":
        pytest.skip("it first records 34,000 walks; test_key_to_door_is_continued_without_training does so")
    shutil.copytree(RESULTS / name, tmp_path / name)
    result, protocol, _ = read(RESULTS / name)
    monkeypatch.setattr(run_cache, "train", lambda *_, **__: pytest.fail("a policy was trained"))
    # The data of the control tasks is not in the repository, and Atari's games would be played for minutes; what identifies
    # the data is there.
    experiment = find_experiment(name)
    if experiment.takes_data or name == "atari":
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
    )
    cells = sorted((folder / name / "cells").iterdir())
    contents = [cell.read_bytes() for cell in cells]
    again = reproduce(find_experiment(name), setup, jobs=1, command=result["command"])
    assert f"{name}: {len(cells)} cells, {len(cells)} of them measured before" in capsys.readouterr().out
    assert again["verdict"] == result["verdict"]
    changing = {"versions", "hardware", "recipe", "rules", "rows"}
    assert {k: v for k, v in read_back(again).items() if k not in changing} == {
        k: v for k, v in result.items() if k not in changing
    }
    assert [{**row, "what": ""} for row in read_back(again["rows"])] == [{**row, "what": ""} for row in result["rows"]]
    assert [cell.read_bytes() for cell in sorted((folder / name / "cells").iterdir())] == contents


def test_a_protocol_of_an_earlier_version_with_other_options_is_refused(tmp_path):
    name = "percent-bc"
    shutil.copytree(RESULTS / name, tmp_path / name)
    _, _, setup = read(tmp_path / name)
    path = tmp_path / name / "protocol.json"
    earlier = path.read_text()
    assert '"training.average_decay": 0.999' in earlier
    path.write_text(earlier.replace('"training.average_decay": 0.999', '"training.average_decay": 0.9'))
    with pytest.raises(RLTransformerError, match="made with another presets"):
        reproduce(find_experiment(name), setup, jobs=1, command="rlt reproduce percent-bc")


def test_options_of_earlier_versions_are_read_at_any_depth(tmp_path):
    options = {"training.average_decay": 0.9, "model.attention": "streaming", "model.conditions": []}
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps({"recipe": {"arms": {"a": {"options": options}}, "listed": [options]}, "rules": {}}))
    present = {"training.ema_decay": 0.9, "model.attention": "sliding_window", "model.conditions": []}
    assert read_protocol(path)["recipe"] == {"arms": {"a": {"options": present}}, "listed": [present]}
