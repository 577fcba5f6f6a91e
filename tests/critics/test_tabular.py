"""Claims about critics that count: they agree with exact values where the log is large."""

from importlib.util import find_spec

import numpy as np
import pytest

from rl_transformer.critics.tabular import CrossFittedTables, TabularModel
from tests.evaluation.offline.toy_problems import BEHAVIOR, POLICY, TOY


@pytest.fixture(scope="module")
def logged():
    return TOY.sample(BEHAVIOR, 20_000, np.random.default_rng(2))


def test_action_values_approach_the_exact_ones(logged):
    found = TabularModel(logged[0]).action_values(POLICY)
    np.testing.assert_allclose(found, TOY.action_values(POLICY), atol=0.08)


def test_visits_approach_the_exact_ones(logged):
    moves = np.einsum("sa,sat->st", POLICY, TOY.transitions)
    exact = np.linalg.solve(np.eye(3) - moves.T, TOY.start)
    np.testing.assert_allclose(TabularModel(logged[0]).visits(POLICY), exact, atol=0.05)


def test_the_behavior_is_found_and_visits_itself_once(logged):
    log, offsets = logged
    model = TabularModel(log)
    np.testing.assert_allclose(model.behavior(), BEHAVIOR, atol=0.02)
    tables = CrossFittedTables(log, np.repeat(np.arange(len(offsets) - 1) % 2, np.diff(offsets)))
    np.testing.assert_allclose(tables.state_ratios(BEHAVIOR), 1, atol=0.05)


def test_no_step_is_predicted_by_a_model_that_has_seen_its_fold(logged):
    log, offsets = logged
    folds = np.repeat(np.arange(len(offsets) - 1) % 2, np.diff(offsets))
    changed = log.rewards.copy()
    changed[folds == 0] += 100
    values = CrossFittedTables(log, folds).action_values(POLICY)
    moved = CrossFittedTables(type(log)(log.states, log.actions, changed, log.is_last, 3, 2), folds).action_values(
        POLICY
    )
    np.testing.assert_array_equal(values[folds == 0], moved[folds == 0])
    assert (moved[folds == 1] > values[folds == 1] + 50).all()


@pytest.mark.skipif(find_spec("icu_sepsis") is None, reason="the package icu-sepsis is not installed")
def test_icu_sepsis_has_its_published_values():
    from rl_transformer.reproductions.finite_mdp import icu_sepsis

    mdp, clinicians = icu_sepsis()
    assert mdp.value(np.full_like(clinicians, 1 / 25)) == pytest.approx(0.7801, abs=1e-4)
    assert mdp.value(clinicians) == pytest.approx(0.7818, abs=1e-4)
    assert mdp.start @ mdp.best_action_values.max(1) == pytest.approx(0.8751, abs=1e-4)
