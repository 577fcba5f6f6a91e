"""Claims about how the second experiment on language chooses learning rates and judges, on made-up measurements."""

import json

import numpy as np
import pytest

from rl_transformer.cli.main import main
from rl_transformer.evaluation.differences import holm_corrected
from rl_transformer.reproductions.cells import cell_file
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.reproduction import verdict
from rl_transformer.reproductions.starts_judging import contrast, is_testable
from rl_transformer.reproductions.starts_judging import judge as judge_contrasts
from rl_transformer.reproductions.wikipedia_2 import CONTRASTS, Wikipedia2

LEARNED = {
    "bits_per_byte": {"2": 2.0, "128": 1.8},
    "shuffled_bits_per_byte": 4.0,
    "kneser_ney": {"3": 2.1, "4": 1.9, "5": 1.85},
    "block_scale": {"pretrained": 1.0},
}


def measured(language=LEARNED, spread=1.0, **shifts):
    """Cells of 16 seeds in which each arm's curve is higher by its shift."""
    random = np.random.default_rng(0)
    rows = [{"arm": "language", "kind": "text", **language}, {"arm": "language", "kind": "markov", "block_scale": {}}]
    # Rates chosen on other data, whose values must not get among the judged ones.
    rows += [
        {"arm": arm, "rate": 1e-3, "seed": 0, "curve": [[100, 9e9]], "action_error": 0.0, "largest": 9e9}
        for arm in CONTRASTS.controls
    ]
    for seed in range(16):
        base = 1000 + 100 * random.normal()
        for arm in CONTRASTS.titles:
            level = base + shifts.get(arm, 0) + spread * random.normal()
            curve = [[step, level * step / 1000] for step in range(100, 1100, 100)]
            rows.append(
                {"arm": arm, "seed": seed, "curve": curve, "action_error": 0.1, "largest": 3e3, "learning_rate": 1e-3}
            )
    return rows


def judge(rows):
    return judge_contrasts(rows, CONTRASTS)


def holds(rows):
    return {name: check.holds for name, check in judge(rows).checks.items()}


def test_a_start_helps_where_it_beats_each_control(tmp_path):
    assert holds(measured(text=400)) == {"language model": True, "scratch": True, "shuffled": True, "markov": True}
    assert holds(measured(text=400, markov=400))["markov"] is False
    assert holds(measured(text=-400))["scratch"] is False
    setup = Setup(quick=False, seeds=16, output=tmp_path)
    assert verdict(Wikipedia2(), setup, judge(measured(text=400))) == "pass"
    assert verdict(Wikipedia2(), setup, judge(measured(text=400, markov=400))) == "fail"
    assert verdict(Wikipedia2(), Setup(quick=False, seeds=15, output=tmp_path), judge(measured(text=400))) != "pass"


def test_a_small_difference_is_not_relevant_however_certain_and_an_uncertain_one_is_open():
    rows = measured(text=60)  # of an area of 550 by 33, for certain
    check = judge(rows).checks["scratch"]
    assert check.holds is False
    assert "no relevant effect" in check.result
    assert judge(measured(text=100, spread=800)).checks["scratch"].holds is None


@pytest.mark.parametrize(
    "bits",
    [
        {"bits_per_byte": {"2": 2.0, "128": 1.86}},  # Kneser-Ney of order 5 is better
        {"bits_per_byte": {"2": 1.85, "128": 1.8}},  # context is of little use
    ],
)
def test_a_language_model_that_learned_no_language_tests_nothing(bits, tmp_path):
    language = {**LEARNED, **bits}
    assert not is_testable(language)
    setup = Setup(quick=False, seeds=16, output=tmp_path)
    for rows in (measured(language, text=400), measured(language, text=-400)):
        assert set(holds(rows).values()) == {None}
        assert verdict(Wikipedia2(), setup, judge(rows)) == "not established"


def test_no_policy_is_trained_from_a_language_model_that_does_not_pass(tmp_path):
    experiment = Wikipedia2()
    setup = Setup(quick=False, seeds=16, output=tmp_path / "out")
    path = cell_file(setup, {"arm": "language", "kind": "text"})
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"arm": "language", "kind": "text", **LEARNED, "kneser_ney": {"3": 1.0}}))
    assert experiment.measure({"arm": "text", "seed": 0}, setup) == {"skipped": True}
    rows = [{"arm": "language", "kind": "text", **LEARNED, "kneser_ney": {"3": 1.0}}]
    summary = experiment.summarize([*rows, {"arm": "text", "seed": 0, "skipped": True}], setup)
    assert {check.holds for check in summary.checks.values()} == {None}


def test_each_arm_takes_the_rate_with_the_largest_area_and_that_of_reid_the_rate_of_text(tmp_path):
    experiment = Wikipedia2()
    setup = Setup(quick=False, seeds=16, output=tmp_path / "out")
    best = {"scratch": 3e-4, "shuffled": 1e-3, "markov": 3e-3, "text": 1e-3}
    for cell in experiment.cells(setup):
        if "rate" in cell:
            path = cell_file(setup, cell)
            path.parent.mkdir(parents=True, exist_ok=True)
            value = 100.0 + 10 * cell["seed"] + (5 if cell["rate"] == best[cell["arm"]] else 0)
            path.write_text(json.dumps({**cell, "curve": [[100, value], [200, value]]}))
    assert experiment.chosen_rates(setup) == {**best, "reid": 1e-3}


def test_updates_are_counted_to_one_threshold_and_a_run_that_never_gets_there_is_said_to_be_so():
    summary = judge(measured(text=400, markov=-900, spread=0.1))
    speeds = {row.what.split(":")[0]: row for row in summary.rows if row.unit == "updates"}
    assert speeds["pretrained on text"].score["mean"] < speeds["from scratch"].score["mean"]
    assert "reached by 0 of 16" in speeds["pretrained on a random Markov chain"].what
    assert speeds["pretrained on a random Markov chain"].score["mean"] == 1000
    assert summary.figures["reached"]["text"] == 16


def test_holms_correction_multiplies_the_smallest_p_value_most_and_never_reverses_the_order():
    random = np.random.default_rng(0)
    scores = {
        name: {"values": (shift + random.normal(size=8)).tolist()} for name, shift in (("a", 2), ("b", 1), ("c", 1))
    }
    alone = {name: holm_corrected({name: score})[name] for name, score in scores.items()}
    first, second, third = sorted(scores, key=alone.get)
    found = holm_corrected(scores)
    assert found[first] == pytest.approx(3 * alone[first])
    assert found[second] == pytest.approx(max(found[first], min(1, 2 * alone[second])))
    assert found[third] == pytest.approx(max(found[second], alone[third]))
    assert holm_corrected({**scores, "d": {"values": [1.0]}}) == dict.fromkeys([*scores, "d"])


def test_an_interval_of_one_seed_decides_nothing():
    assert contrast({"mean": 5.0, "interval": None}, None, 1.0).holds is None


def test_tuning_data_is_taken_where_it_is_used(tmp_path, capsys):
    assert main(["reproduce", "scaling", "--tuning-data", "rlt:x", "--output", str(tmp_path / "out")]) == 2
    assert "chooses nothing on data" in capsys.readouterr().err
