"""Claims about `rlt select --trials`: the bandit is UCB1, and a pick is judged by episodes that it did not see."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rl_transformer.cli.main import main
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.stored_reports import StoredReport, make_side
from rl_transformer.evaluation.trials import select_by_trials, simulate_trials, upper_bounds
from rl_transformer.run import train
from tests.toys import POINT, point_data, tiny_config

ROOT = Path(__file__).parents[2]


def naive_bandit(returns, trials, shown, order, drawn):
    """One repeat of the bandit as a textbook writes it."""
    earned = {place: [] for place in range(len(order))}
    picks = []
    for trial in range(trials):
        if trial < len(order):
            place = trial
        else:
            everything = [value for values in earned.values() for value in values]
            spread = np.std(everything)
            bounds = [np.mean(values) + spread * np.sqrt(2 * np.log(trial) / len(values)) for values in earned.values()]
            place = int(np.argmax(bounds))
        earned[place].append(returns[order[place]][shown[drawn[trial]]])
        means = [np.mean(values) if values else -np.inf for values in earned.values()]
        picks.append(order[int(np.argmax(means))])
    return picks


def test_the_bandit_is_that_of_a_plain_loop():
    returns = np.random.default_rng(0).normal([[0.0], [0.3], [0.2]], 1.0, (3, 12))
    picks, values = simulate_trials(returns, 30, np.random.default_rng(1), repeats=20)
    random = np.random.default_rng(1)
    halves = random.permuted(np.tile(np.arange(12), (20, 1)), axis=1)
    order = random.permuted(np.tile(np.arange(3), (20, 1)), axis=1)
    drawn = np.array([random.integers(0, 6, 20) for _ in range(30)])
    for repeat in range(20):
        expected = naive_bandit(returns, 30, halves[repeat, :6], order[repeat], drawn[:, repeat])
        assert picks[:, repeat].tolist() == expected
        np.testing.assert_allclose(values[repeat], returns[:, halves[repeat, 6:]].mean(1))


def test_bounds_are_those_of_ucb1_in_units_of_the_spread():
    sums, counts = np.array([[1.0, 3.0]]), np.array([[2.0, 4.0]])
    # Two returns of 0.5 and four of 0.75: the spread is that of all six.
    spread = np.std([0.5] * 2 + [0.75] * 4)
    found = upper_bounds(sums, counts, np.array([2 * 0.25 + 4 * 0.5625]))
    np.testing.assert_allclose(found[0], [0.5 + spread * np.sqrt(np.log(6)), 0.75 + spread * np.sqrt(np.log(6) / 2)])


def sides_of(returns, **changed):
    values = {
        "env_id": "e",
        "env_kwargs": {},
        "wrappers": [],
        "seed": 0,
        "num_episodes": returns.shape[1],
        "training_seeds": [],
    }
    entries = [{"target_return": None, "episode_returns": row.tolist(), "interval": None} for row in returns]
    reports = [
        StoredReport(f"{i}", {**values, "policy": f"p{i}", "targets": [entry], **changed})
        for i, entry in enumerate(entries)
    ]
    return [make_side(f"run{i}", {None: report}, None) for i, report in enumerate(reports)]


def test_the_first_pick_is_by_chance_and_more_trials_find_the_best():
    returns = np.random.default_rng(0).normal([[0.0], [1.0], [2.0]], 0.5, (3, 60))
    found = select_by_trials(sides_of(returns), 40)
    after = found["after"]
    assert found["pick"] == "run2"
    # One trial tells nothing of the others: a third of the picks is right, and they lose the mean distance.
    assert after[0]["probability_best"] == pytest.approx(1 / 3, abs=0.04)
    assert after[0]["regret"] == pytest.approx(1.0, abs=0.1)
    assert after[-1]["probability_best"] > 0.99
    assert after[-1]["regret"] == pytest.approx(0, abs=0.02)
    assert [row["trials"] for row in after] == list(range(1, 41))


def test_a_pick_among_equal_policies_does_not_look_better_than_they_are():
    # Eight policies of mean 0: whichever wins its trials by luck is worth 0, not the largest mean that was seen.
    values = [
        select_by_trials(sides_of(np.random.default_rng(seed).normal(size=(8, 20))), 60)["after"][-1]["value"]
        for seed in range(15)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert np.std(values) < 0.5


@pytest.mark.parametrize(
    ("returns", "trials", "message"),
    [(np.ones((1, 20)), 3, "nothing to choose"), (np.ones((2, 20)), 0, "is 0"), (np.ones((2, 5)), 3, "5 episodes")],
)
def test_what_says_nothing_is_refused(returns, trials, message):
    with pytest.raises(RLTransformerError, match=message):
        select_by_trials(sides_of(returns), trials)


def test_episodes_of_different_seeds_are_not_compared():
    sides = [sides_of(np.ones((2, 20)))[0], sides_of(np.ones((2, 20)), seed=7)[1]]
    with pytest.raises(RLTransformerError, match="seed is 7"):
        select_by_trials(sides, 3)


def test_the_command_runs_episodes_or_reads_reports(tmp_path, capsys):
    data = point_data()
    runs = [str(train(tiny_config(tmp_path / f"run{seed}", training={"seed": seed}), dataset=data)) for seed in (0, 1)]
    live = ["--env-id", POINT, "--num-episodes", "10", "--target-return", "6"]
    out = tmp_path / "s.json"
    assert main(["select", *runs, "--trials", "8", *live, "--json", str(out)]) == 0
    lived = json.loads(out.read_text())
    page = (ROOT / "docs/reference/metrics.md").read_text().partition("With `--trials`")[2].partition("\n## ")[0]
    assert {*lived, *lived["candidates"][0], *lived["after"][0]} == set(re.findall(r"`(\w+)`", page))
    assert "after N trials" in capsys.readouterr().out
    for run in runs:
        report = f"{run}/report.json"
        assert main(["evaluate", run, *live, "--json", report]) == 0
    assert main(["select", *runs, "--trials", "8", "--json", str(out)]) == 0
    # The same episodes, recorded before.
    assert json.loads(out.read_text()) == lived
