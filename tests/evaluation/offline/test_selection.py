"""Claims about `rlt select` on logs: the regret to be expected is what is lost on average, and support comes first."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from rl_transformer.cli.main import main
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline import selection
from rl_transformer.evaluation.offline.action_kinds import Candidate
from rl_transformer.evaluation.offline.estimators import FITTED_Q, WEIGHTED_DOUBLY_ROBUST, ValueEstimate
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.selection import (
    RANKED,
    UNSUPPORTED,
    WITHHELD,
    expected_regrets,
    resample_values,
    selection_text,
)
from rl_transformer.evaluation.offline.support import Support
from rl_transformer.evaluation.offline.verdict import Side
from rl_transformer.run import train
from tests.evaluation.offline.test_judge import choices
from tests.toys import tiny_config

ROOT = Path(__file__).parents[3]

LOG = SimpleNamespace(entities=None, actions=SimpleNamespace(gates=lambda candidates: []))  # of discrete actions


def gaussian_estimates(means, covariance, episodes, random):
    """Estimates that are plain means over episodes, with exactly these values and this covariance."""
    raw = random.normal(size=(episodes, len(means)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / episodes)).T
    influences = white @ np.linalg.cholesky(np.asarray(covariance) * episodes).T
    return [
        ValueEstimate(WEIGHTED_DOUBLY_ROBUST, mean, column) for mean, column in zip(means, influences.T, strict=True)
    ]


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
def test_the_regret_of_two_gaussians_is_that_of_the_closed_form(correlation):
    means, spreads = np.array([1.0, 1.3]), np.array([0.4, 0.2])
    covariance = np.diag(spreads**2)
    covariance[0, 1] = covariance[1, 0] = correlation * spreads.prod()
    estimates = gaussian_estimates(means, covariance, 2000, np.random.default_rng(0))
    found = expected_regrets(resample_values(estimates, None, resamples=10_000))
    # The expected maximum of two Gaussians (Clark 1961); theta is the spread of their difference.
    theta = np.sqrt(spreads @ spreads - 2 * covariance[0, 1])
    distance = (means - means[::-1]) / theta
    expected = theta * stats.norm.pdf(distance) - theta * distance * stats.norm.cdf(-distance)
    np.testing.assert_allclose(found.expected, expected, atol=0.01)
    np.testing.assert_allclose(found.is_best, stats.norm.cdf(distance), atol=0.02)


def test_over_many_problems_the_expected_regret_is_what_the_pick_loses():
    random = np.random.default_rng(1)
    expected, lost = [], []
    for _ in range(2000):
        # Nothing is known of the values beforehand, so that they lie far apart beside the errors of the estimates.
        true = random.uniform(-3, 3, 4)
        values = true + random.multivariate_normal(np.zeros(4), 0.25 * np.eye(4) + 0.25)
        draws = values + random.multivariate_normal(np.zeros(4), 0.25 * np.eye(4) + 0.25, size=200)
        pick = int(values.argmax())
        expected.append(expected_regrets(draws).expected[pick])
        lost.append(true.max() - true[pick])
    assert np.mean(expected) == pytest.approx(np.mean(lost), rel=0.15)


def test_equal_policies_share_the_probability_of_being_best_and_have_no_regret():
    found = expected_regrets(np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 2, axis=1))
    assert found.expected.tolist() == [0, 0]
    assert found.is_best.tolist() == [0.5, 0.5]


def test_episodes_of_an_entity_are_resampled_together():
    random = np.random.default_rng(0)
    influences = np.repeat(random.normal(size=100), 5)
    estimate = ValueEstimate("e", 2.0, influences - influences.mean())
    alone = resample_values([estimate], None).std()
    together = resample_values([estimate], np.repeat(np.arange(100), 5)).std()
    # Five equal episodes say as much as one, and not five times as much.
    assert alone == pytest.approx(influences.std() / np.sqrt(500), rel=0.05)
    assert together == pytest.approx(influences.std() / np.sqrt(100), rel=0.05)


@dataclass
class Named:
    """Stands for a policy."""

    content_hash: str


@pytest.fixture
def estimated(monkeypatch):
    """Returns a function that chooses among policies of given estimates: (value, fitted Q evaluation, supported) by name."""

    def choose(given, gates=None, episodes=400):
        random = np.random.default_rng(0)
        spreads = 0.01 * np.eye(len(given)) + 0.03
        found = gaussian_estimates([value for value, _, _ in given.values()], spreads, episodes, random)
        names = (WEIGHTED_DOUBLY_ROBUST, FITTED_Q)
        support = Support(300.0, 0.1, 0.1, 0.01, 0.0, [], [])
        sides = [
            Side(
                dict(zip(names, (estimate, ValueEstimate(FITTED_Q, fitted, estimate.influences)), strict=True)),
                support if is_supported else replace(support, effective_sample_size=3.0),
            )
            for (_, fitted, is_supported), estimate in zip(given.values(), found, strict=True)
        ]
        steps = LoggedSteps(
            np.arange(episodes + 1), random.normal(size=episodes), np.zeros(episodes), np.zeros(episodes)
        )
        judged = [(steps, side, None) for side in sides]
        monkeypatch.setattr(selection, "estimate_sides", lambda *_, **__: (LOG, judged))
        candidates = [Candidate(Named(f"hash of {name}"), name=name) for name in given]
        return selection.select(candidates, SimpleNamespace(num_trajectories=episodes), gates=gates)

    return choose


def test_the_policy_with_the_largest_estimate_is_tried_first(estimated):
    found = estimated({"low": (-5.0, 9.0, True), "high": (1.1, 1.0, True), "middle": (1.0, 1.0, True)})
    assert [row["run"] for row in found["candidates"]] == ["high", "middle", "low"]
    assert found["pick"] == "high"
    # By the closed form for the two that matter, whose difference has a variance of 0.02.
    distance = 0.1 / np.sqrt(0.02)
    expected = np.sqrt(0.02) * (stats.norm.pdf(distance) - distance * stats.norm.cdf(-distance))
    assert found["expected_regret"] == pytest.approx(expected, rel=0.15)
    assert sum(row["probability_best"] for row in found["candidates"]) == pytest.approx(1)
    above = [row["probability_above_behavior"] for row in found["candidates"]]
    assert above[0] > 0.99 > 0.01 > above[2]
    assert found["notes"] == ["fitted Q evaluation would pick low"]
    assert selection_text(found).startswith("TRY FIRST: high; expected regret")


def test_a_policy_without_support_or_with_a_failed_gate_is_not_ranked_however_good_it_looks(estimated):
    given = {"a": (1.0, 1.0, True), "unsupported": (9.0, 5.0, False), "seen": (9.0, 9.0, True)}
    found = estimated(given, gates={"seen": [Gate("held-out data", False, "the policy has seen these episodes")]})
    assert [(row["run"], row["status"]) for row in found["candidates"]] == [
        ("a", RANKED),
        ("unsupported", UNSUPPORTED),
        ("seen", WITHHELD),
    ]
    assert found["expected_regret"] == 0
    assert [row["estimate"] is None for row in found["candidates"]] == [False, True, True]
    assert "nothing is established about unsupported, seen" in found["notes"][0]
    assert "fitted Q evaluation would pick unsupported" in found["notes"]
    assert "the policy has seen these episodes" in selection_text(found)


def test_without_support_there_is_an_order_but_no_regret(estimated):
    given = {"a": (9.0, 1.0, False), "b": (1.0, 2.0, False)}
    found = estimated(given)
    assert (found["pick"], found["expected_regret"]) == ("b", None)
    assert selection_text(found).startswith("TRY FIRST: b, without an expected regret")
    gates = {name: [Gate("leakage", False, "the state holds the outcome")] for name in given}
    assert estimated(given, gates=gates)["pick"] is None


def test_one_policy_or_the_same_one_twice_is_no_choice():
    with pytest.raises(RLTransformerError, match="nothing to choose"):
        selection.select([Candidate(Named("x"))], None)
    with pytest.raises(RLTransformerError, match="same policy"):
        selection.select([Candidate(Named("x"), name="a"), Candidate(Named("x"), name="b")], None)


def test_the_command_picks_from_logs_and_refuses_what_it_would_ignore(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rl_transformer.critics.networks.FitOptions.__init__.__defaults__", (16, 40, 40, 1e-3, 0.05, 0))
    choices(60).save(tmp_path / "data")
    for seed in (0, 1):
        config = tiny_config(tmp_path / f"run{seed}", training={"seed": seed}, dataset={"validation_fraction": 0.5})
        config.dataset.uri = f"rlt:{tmp_path / 'data'}"
        train(config)
    choices(80, seed=5).save(tmp_path / "test")
    runs = [str(tmp_path / "run0"), str(tmp_path / "run1")]
    out = tmp_path / "s.json"
    assert main(["select", *runs, "--data", f"rlt:{tmp_path / 'test'}", "--json", str(out)]) == 0
    assert "TRY FIRST" in capsys.readouterr().out
    result = json.loads(out.read_text())
    page = (
        (ROOT / "docs/reference/metrics.md")
        .read_text()
        .partition("## rlt select --json")[2]
        .partition("With `--trials`")[0]
    )
    assert {*result, *result["candidates"][0]} <= set(re.findall(r"`(\w+)`", page))
    assert result["pick"] in runs
    assert {row["status"] for row in result["candidates"]} <= {RANKED, UNSUPPORTED, WITHHELD}
    # Different seeds hold out different episodes of the training data, so nothing is left that none has seen.
    for wrong in (
        ["--data", f"rlt:{tmp_path / 'data'}"],
        ["--data", "rlt:x", "--trials", "3"],
        ["--data", "rlt:x", "--max-steps", "3"],
        ["--trials", "3", "--entity", "c"],
        ["--trials", "3", "--num-episodes", "3"],
        [],
    ):
        assert main(["select", *runs, *wrong]) == 2
    messages = capsys.readouterr().err
    for text in ("held out different episodes", "give one of the two", "--max-steps", "--entity", "--num-episodes"):
        assert text in messages
