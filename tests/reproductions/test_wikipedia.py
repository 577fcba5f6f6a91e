"""Claims about how the experiments on language and size judge, on made-up measurements; `make test-slow` runs them."""

import numpy as np
import pytest

from rl_transformer.cli.main import main
from rl_transformer.reproductions import language_starts
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.reproduction import verdict
from rl_transformer.reproductions.scaling import Scaling
from rl_transformer.reproductions.wikipedia import STARTS, Wikipedia, updates_to_share


def cells(text=0.0, controls=0.0, sooner=0):
    random = np.random.default_rng(0)
    rows = []
    for seed in range(8):
        base = 1000 + 100 * random.normal()
        for arm in STARTS:
            mean = (
                base
                + random.normal()
                + (text if arm == "text" else controls if arm in ("shuffled", "markov", "iid") else 0)
            )
            late = 800 - (sooner if arm == "text" else 0) + 100 * int(random.integers(3))
            curve = [[step, mean if step >= late else 0.0] for step in range(100, 1100, 100)]
            rows.append(
                {"arm": arm, "seed": seed, "mean": mean, "curve": curve, "losses": [0.5, 0.1], "largest": 3000.0}
            )
    return rows


@pytest.mark.parametrize(
    ("made", "holds"),
    [
        ({}, {"better": None, "faster": None, "language": None}),
        ({"text": 200}, {"better": True, "faster": None, "language": True}),
        ({"text": 200, "controls": 200}, {"better": True, "faster": None, "language": None}),
        ({"sooner": 500}, {"better": None, "faster": True, "language": None}),
        ({"text": 200, "sooner": 500}, {"better": True, "faster": True, "language": True}),
        ({"text": -300, "sooner": -300}, {"better": False, "faster": False, "language": False}),
    ],
)
def test_each_claim_is_judged_by_its_own_paired_differences(made, holds, tmp_path):
    setup = Setup(quick=False, seeds=8, output=tmp_path)
    summary = Wikipedia().summarize(cells(**made), setup)
    assert {name: check.holds for name, check in summary.checks.items()} == holds
    outcome = "fail" if False in holds.values() else "pass" if all(holds.values()) else "not established"
    assert verdict(Wikipedia(), setup, summary) == outcome
    assert verdict(Wikipedia(), Setup(quick=False, seeds=7, output=tmp_path), summary) == "not established"


@pytest.mark.parametrize("kind", ["text", "markov"])
def test_language_models_are_pretrained_on_the_device_of_the_experiment(kind, tmp_path, monkeypatch):
    pretrained = []
    monkeypatch.setattr(language_starts, "pretrain", lambda config, resume: pretrained.append(config))
    for device in ("cpu", "cuda:1"):
        setup = Setup(quick=True, seeds=1, output=tmp_path / "out/w", device=device)
        language_starts.language_model(kind, kind, {}, tmp_path / "text.txt", setup)
    assert [config.training.device for config in pretrained] == ["cpu", "cuda:1"]
    # One that was begun on the CPU is not resumed on a GPU, which would be refused.
    assert len({config.output for config in pretrained}) == 2


def test_one_seed_decides_nothing(tmp_path):
    summary = Wikipedia().summarize(cells()[: len(STARTS)], Setup(quick=False, seeds=1, output=tmp_path))
    assert {check.holds for check in summary.checks.values()} == {None}


def test_updates_are_counted_to_the_share_of_the_last_policys_score():
    curve = [[100, 10.0], [200, 95.0], [300, 60.0], [400, 100.0]]
    assert updates_to_share({"curve": curve, "mean": 100.0}) == 200
    assert updates_to_share({"curve": curve, "mean": 500.0}) == 400


@pytest.mark.parametrize(("slope", "holds"), [(-0.1, True), (0.1, False)])
def test_scaling_compares_the_widest_with_the_narrowest(slope, holds, tmp_path):
    sizes = [(width, depth) for width, depth in Scaling().recipe(Setup(quick=False, seeds=5, output=tmp_path))["sizes"]]
    random = np.random.default_rng(1)
    rows = [
        {"width": w, "depth": d, "seed": seed, "loss": 1 + slope * np.log2(w) + 0.001 * random.normal(),
         "mean": 100.0 - 10 * slope * np.log2(w) + 0.001 * random.normal(), "blocks": w * w * d, "largest": 1.0}
        for seed in range(5) for w, d in sizes
    ]  # fmt: skip
    summary = Scaling().summarize(rows, Setup(quick=False, seeds=5, output=tmp_path))
    assert {name: check.holds for name, check in summary.checks.items()} == {"score": holds}
    assert len(summary.rows) == 12


def test_text_is_taken_where_it_is_read(tmp_path, capsys):
    assert main(["reproduce", "scaling", "--quick", "--text", "x", "--output", str(tmp_path / "out")]) == 2
    assert "reads no text" in capsys.readouterr().err
    assert (
        main(["reproduce", "wikipedia", "--quick", "--text", "nowhere.txt", "--output", str(tmp_path / "w" / "out")])
        == 2
    )
    assert "nowhere.txt" in capsys.readouterr().err
