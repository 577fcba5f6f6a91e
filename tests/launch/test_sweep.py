"""Claims about the search for options: what it compares by, what it shares, what it refuses."""

import json
import subprocess

import pytest

from rl_transformer import RLTransformerError, load_policy
from rl_transformer.cli.main import main
from rl_transformer.launch.sweep import SEARCH_SEED, read_space, sweep
from rl_transformer.trajectories.store import write_store
from tests.toys import POINT, point_data, tiny_config

HELD_OUT = {"validation_fraction": 0.2}


def options(folder, **sections):
    return tiny_config(folder, dataset=HELD_OUT, **sections)


def test_the_best_trial_has_the_smallest_error_on_held_out_episodes(tmp_path):
    space = {"training.learning_rate": [1e-9, 3e-3]}
    result = sweep(options(tmp_path / "s", training={"train_steps": 60}), space, num_trials=6, dataset=point_data())
    scores = {trial["options"]["training.learning_rate"]: trial["score"] for trial in result["trials"]}
    assert set(scores) == {1e-9, 3e-3}
    assert result["best"]["options"]["training.learning_rate"] == 3e-3
    assert result["best"]["score"] == max(scores.values()) > min(scores.values())
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == json.loads(json.dumps(result))
    assert load_policy(tmp_path / "s" / result["best"]["run"])


def test_a_later_call_continues_the_search(tmp_path):
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    data = point_data()
    first = sweep(options(tmp_path / "s"), space, num_trials=2, dataset=data)
    again = sweep(options(tmp_path / "s"), space, num_trials=4, dataset=data)
    assert {t["trial"]: t["score"] for t in first["trials"]}.items() <= {
        t["trial"]: t["score"] for t in again["trials"]
    }.items()
    assert len(again["trials"]) == 4
    alone = sweep(options(tmp_path / "other"), space, num_trials=4, dataset=data)
    assert [(t["trial"], t["options"], t["score"]) for t in alone["trials"]] == [
        (t["trial"], t["options"], t["score"]) for t in again["trials"]
    ]


def test_a_combination_that_cannot_work_is_recorded_and_not_chosen(tmp_path):
    space = {"model.n_head": [3, 2]}
    result = sweep(options(tmp_path / "s"), space, num_trials=5, dataset=point_data())
    refused = [trial for trial in result["trials"] if trial["score"] is None]
    assert refused
    assert "multiple of n_head" in refused[0]["refused"]
    assert result["best"]["options"] == {"model.n_head": 2}
    with pytest.raises(RLTransformerError, match="no trial could be trained"):
        sweep(options(tmp_path / "all"), {"model.n_head": [3]}, num_trials=2, dataset=point_data())


def test_returns_are_measured_on_other_episodes_than_those_of_evaluation(tmp_path, capsys):
    config = tiny_config(tmp_path / "s", evaluation={"env_id": POINT, "target_returns": [6.0], "num_episodes": 3})
    result = sweep(config, {"model.n_layer": [1]}, num_trials=1, dataset=point_data())
    assert "evaluation.on_error is stop in every trial" in capsys.readouterr().out
    assert result["evaluation_seed"] == SEARCH_SEED
    report = json.loads((tmp_path / "s" / result["best"]["run"] / "report.json").read_text())
    assert report["seed"] == SEARCH_SEED
    assert result["best"]["score"] == pytest.approx(report["targets"][0]["mean"])


def test_two_processes_share_a_search(tmp_path, warm_path):
    data = point_data()
    write_store(tmp_path / "data", data.spec, (data.trajectory(i) for i in range(len(data))))
    (tmp_path / "space.yaml").write_text("training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}\n")
    command = ["rlt", "sweep", "gym", "--data", f"rlt:{tmp_path / 'data'}"]
    command += ["--output", str(tmp_path / "s"), "--space", str(tmp_path / "space.yaml"), "--trials", "6"]
    command += ["--train-steps", "3", "--model.hidden_size", "16", "--dataset.validation_fraction", "0.2"]
    together = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
    ]
    for process in together:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    result = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert 6 <= len(result["trials"]) <= 7
    assert len({trial["trial"] for trial in result["trials"]}) == len(result["trials"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold a mapping"),
        ("- a", "does not hold a mapping"),
        ("{}", "names no option"),
        ("model.nothing: [1]", "there is no option 'model.nothing'"),
        ("nothing: [1]", "there is no option 'nothing'"),
        ("model.n_layr: [1]", "did you mean model.n_layer"),
        ("model.n_layer: 3", "neither choices nor a range"),
        ("model.n_layer: []", "neither choices nor a range"),
        ("model.n_layer: {low: 3}", "is not a range"),
        ("model.n_layer: {low: 3, high: 1}", "is not a range"),
        ("model.n_layer: {low: 1, high: 3, often: 2}", "is not a range"),
        ("model.n_layer: {low: a, high: b}", "is not a range"),
        ("model: {: ", "cannot be read"),
    ],
)
def test_a_malformed_space_is_refused(text, message, tmp_path):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(RLTransformerError, match=message):
        read_space(tmp_path / "space.yaml", tiny_config(tmp_path))


def test_bad_calls_end_with_2(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("model.n_layer: [1, 2]")
    call = [
        "sweep",
        "gym",
        "--data",
        "rlt:nowhere",
        "--output",
        str(tmp_path / "s"),
        "--space",
        str(tmp_path / "space.yaml"),
    ]
    assert main([*call, "--trials", "0"]) == 2
    assert "not positive" in capsys.readouterr().err
    assert main([*call, "--trials", "1"]) == 2
    assert "nothing to compare trials by" in capsys.readouterr().err
    assert main([*call, "--trials", "1", "--dataset.validation_fraction", "0.1"]) == 2
    assert "nowhere" in capsys.readouterr().err
