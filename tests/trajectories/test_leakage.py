"""Claims about leakage: what observations should only precede is found in them, and honest policies raise no alarm."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.leakage import LEAKAGE_KINDS, NOT_CHECKED, find_leakage
from rl_transformer.trajectories.shared_steps import OVERLAP
from rl_transformer.trajectories.trajectory import Trajectory
from tests.trajectories.generated_sets import CLEAN, cart_pole, clinic, dataset, linear_system, with_feature

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("leakage_study", ROOT / "studies/leakage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alarms(episodes):
    return [f for f in find_leakage(dataset(episodes)) if f.kind in LEAKAGE_KINDS]


def cut(episodes, length):
    return [{k: v[:length] if np.ndim(v) else v for k, v in e.items()} for e in episodes]


def test_planted_leaks_are_found(study):
    names = ["cart-mixed", "clinic"]
    makers = (study.planted_features, study.planted_records, study.planted_splits)
    results = [(name, *row) for name in names for make in makers for row in make(name, 0)]
    ruled = [row for row in results if row[2] not in study.BEYOND_THE_RULE]
    assert len(ruled) >= 60
    assert sum(row[3] for row in ruled) >= 0.95 * len(ruled), [row for row in ruled if not row[3]]


@pytest.mark.parametrize(
    "name", ["cart-linear", "cart-angle-discrete", "linear-deterministic", "linear-sticky", "clinic"]
)
def test_honest_policies_raise_no_alarm(name):
    assert not alarms(CLEAN[name](3))


def test_what_was_known_before_is_no_leak():
    """The previous action and reward, totals without the present step, and a clock."""
    random = np.random.default_rng(0)
    for episodes in (linear_system(0, "sticky"), cart_pole(0, "mixed"), clinic(0)):

        def before(e, name):
            numbers = np.asarray(e[name], float).reshape(len(e["rewards"]), -1)[:, 0]
            return np.concatenate([[0], numbers[:-1]])

        for make in (
            lambda e: before(e, "actions"),
            lambda e: before(e, "rewards"),
            lambda e: np.cumsum(before(e, "actions")),
            lambda e: np.cumsum(before(e, "rewards")),
            lambda e: np.arange(len(e["rewards"])),
            lambda e: np.full(len(e["rewards"]), random.normal()),
        ):
            assert not alarms(with_feature(episodes, make))


def test_what_is_not_looked_at_is_said_with_the_reason():
    random = np.random.default_rng(0)
    seen = [{**e, "observations": random.integers(0, 255, (6, 36, 36, 3), np.uint8)} for e in cut(linear_system(0), 6)]
    (pictures,) = [f for f in find_leakage(dataset(seen)) if f.kind == NOT_CHECKED]
    assert "images" in pictures.problem
    (few,) = find_leakage(dataset(linear_system(0, count=3)))
    assert (few.kind, "only 3 episodes" in few.problem) == (NOT_CHECKED, True)
    wide = [f for f in find_leakage(dataset(linear_system(0, size=70))) if f.kind == NOT_CHECKED]
    assert "more than 64" in wide[0].problem


def test_an_episode_with_nan_does_not_hide_a_leak():
    episodes = with_feature(linear_system(0), lambda e: e["rewards"])
    data = dataset(episodes)
    episodes[2]["observations"][3, 0] = np.nan
    made = [Trajectory(e["observations"], e["actions"], e["rewards"], terminated=True) for e in episodes]
    found = find_leakage(TrajectoryDataset.in_memory(data.spec, made))
    assert [(f.kind, f.positions) for f in found] == [("reward among the observations", [{"feature": 5}])]


def test_what_the_step_before_determines_is_no_leak():
    """On a grid without chance the expert's move is a function of one number, which was known a step earlier."""
    for seed in range(4):
        assert not alarms(CLEAN["grid-expert"](seed))
    # The same column beside a policy that also explores is not known before, and holds its choice.
    explored = with_feature(CLEAN["grid"](0), lambda e: e["actions"])
    assert {"feature": 12} in [place for f in alarms(explored) for place in f.positions]


def test_an_action_that_stays_for_an_episode_is_found_although_later_steps_were_known():
    random = np.random.default_rng(0)
    episodes = [{**e, "actions": np.full_like(e["actions"], random.uniform(-1, 1))} for e in linear_system(0)]
    found = alarms(with_feature(episodes, lambda e: e["actions"][:, 0]))
    assert any({"feature": 5} in f.positions for f in found if f.kind == "action among the observations")


@pytest.mark.parametrize("values", ["actions", "rewards"])
def test_a_column_that_was_filled_from_another_one_in_some_rows_is_found(values):
    random = np.random.default_rng(0)

    def fill(e):
        own = np.asarray(e[values]).reshape(len(e["rewards"]), -1)[:, 0]
        return np.where(random.random(len(own)) < 0.15, own, random.normal(size=len(own)))

    (found,) = alarms(with_feature(linear_system(0), fill))
    assert found.positions == [{"feature": 5}]
    assert "in up to 1" in found.problem
    # The digits of the step before, in every row: it was known.
    assert not alarms(with_feature(linear_system(0, "sticky"), lambda e: np.append(0, e["actions"][:-1, 0])))


def test_steps_that_recur_by_chance_are_no_overlap():
    """A hundred states, each with numbers of its own: patients meet in one, go on alike for a while, and part again."""
    random = np.random.default_rng(0)
    signs = random.normal(size=(100, 4))
    episodes = []
    for _ in range(200):
        states = [int(random.integers(100))]
        for _ in range(11):
            states.append((states[-1] + 1) % 100 if random.random() < 0.45 else int(random.integers(100)))
        states = np.array(states)
        episodes.append(
            {"observations": signs[states], "actions": states % 3, "rewards": np.zeros(12), "terminated": True}
        )
    assert not [f for f in alarms(episodes) if f.kind == OVERLAP]


@pytest.mark.slow
def test_the_rule_of_the_study_holds_with_other_seeds(study):
    result = study.measure(list(CLEAN), range(3, 4), range(20, 23))
    assert result["rule_holds"], result
