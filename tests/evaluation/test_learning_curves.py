"""Claims about `rlt plot`: curves are means over seeds with their interval, over the updates that all seeds have."""

import json

import numpy as np
import pytest

from rl_transformer.cli.main import main
from rl_transformer.evaluation.learning_curves import learning_curves
from rl_transformer.evaluation.statistics import mean_interval


def rows(updates, shift=0.0):
    """Rows of metrics.jsonl: a loss at every update, and an evaluation at every tenth."""
    found = []
    for step in range(1, updates + 1):
        found.append({"step": step, "loss": 100 / step + shift, "gradient_norm": 1.0})
        if step % 10 == 0:
            found.append({"step": step, "return_at_3": step + shift})
    return found


def written(folder, lines):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_curve_is_the_mean_over_seeds_with_its_interval():
    curves = learning_curves({"seed-0": rows(40), "seed-1": rows(40, 2.0), "seed-2": rows(30, 1.0)})
    returns = curves["return_at_3"]
    assert returns["steps"] == [10, 20, 30]  # one seed has not reached 40
    assert returns["mean"] == pytest.approx([11, 21, 31])
    expected = mean_interval([10.0, 12.0, 11.0])
    assert returns["interval"][0] == pytest.approx([expected.low, expected.high])
    assert curves["loss"]["steps"] == list(range(1, 31))
    assert learning_curves({"run": rows(10)})["loss"]["interval"] == [None] * 10


def test_the_loss_of_many_updates_is_averaged_without_losing_any():
    curve = learning_curves({"run": rows(1001)})["loss"]
    assert curve["averaged"] == 6
    assert curve["steps"][:2] == [6, 12]
    assert curve["steps"][-1] == 1001
    assert curve["mean"][0] == pytest.approx(np.mean([100 / step for step in range(1, 7)]))
    assert curve["mean"][-1] == pytest.approx(np.mean([100 / step for step in range(997, 1002)]))


def test_the_command_draws_runs_and_folders_of_seeds(tmp_path, capsys):
    for seed in range(3):
        written(tmp_path / f"runs/seed-{seed}", rows(20 + 10 * (seed == 2), seed))
    run = written(tmp_path / "run", rows(20))
    out = tmp_path / "out.json"
    words = [str(tmp_path / "runs"), str(run), "--figure", str(tmp_path / "curves.png"), "--json", str(out)]
    assert main(["plot", *words]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(out.read_text())["runs"]
    assert [one["folders"] for one in found] == [["seed-0", "seed-1", "seed-2"], ["run"]]
    assert found[0]["curves"]["return_at_3"]["mean"] == pytest.approx([11, 21])
    assert "seed-2 continues to update 30" in capsys.readouterr().out


def test_what_is_no_run_is_refused(tmp_path, capsys):
    figure = ["--figure", str(tmp_path / "x.png")]
    assert main(["plot", str(tmp_path), *figure]) == 2
    assert "metrics.jsonl: no such file" in capsys.readouterr().err
    run = written(tmp_path / "run", rows(3))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert main(["plot", str(run), *figure]) == 2
    assert "metrics.jsonl, line 4: cannot be read as JSON" in capsys.readouterr().err
    empty = written(tmp_path / "empty", [])
    assert main(["plot", str(empty), *figure]) == 2
    assert "the metrics of its runs have no update in common" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
