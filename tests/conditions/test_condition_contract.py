"""Claims about every registered condition: the data and a live session count it alike, and it survives a folder."""

import json

import numpy as np
import pytest

from rl_transformer import RLTransformerError, RunConfig, TrajectoryDataset
from rl_transformer.conditions import CONDITIONS, conditions_from_data, conditions_from_dicts
from rl_transformer.conditions.interface import checked_column, sum_to_go
from rl_transformer.runtime.registry import loading_plugin
from tests.toys import telling_data, toll_data

BUILT_IN = [name for name in CONDITIONS.names() if not CONDITIONS.is_from_plugin(name)]
# Options of a run under which each condition must keep its contract; telling_data's rewards are 1 ... 200.
OPTIONS = {
    "return_to_go": [
        {},
        {"update": "keep"},
        {"reward_clip": 15.0},
        {"update": "keep", "reward_clip": 15.0},
        {"scale": 7.0},
    ],
    "cost_to_go": [{}],
}
CASES = [(name, options) for name in BUILT_IN for options in OPTIONS[name]]
every_condition = pytest.mark.parametrize("name", BUILT_IN)
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
DATA = {"telling": lambda: telling_data(with_cost=True), "toll": toll_data}


def make(name, data, options):
    config = RunConfig()
    for option, value in options.items():
        config.set(f"returns.{option}", value)
    return CONDITIONS.get(name, where="test").from_data(data, config)


def outcomes_of(condition, data):
    """Return the logged outcomes at every step: (N,)."""
    return data.rewards if condition.outcome == "reward" else data.columns[condition.outcome]


def test_both_built_in_conditions_are_held_to_the_contract():
    assert len(BUILT_IN) == 2
    assert set(BUILT_IN) == set(OPTIONS)
    assert len(CASES) == 6


@every_case
@pytest.mark.parametrize("source", DATA)
def test_logged_outcomes_lead_from_the_first_value_to_that_of_every_later_step(name, options, source):
    """One live session per episode, of unequal lengths: each is fed its own log and read at each of its steps."""
    data = DATA[source]()
    condition = make(name, data, options)
    column = checked_column(condition, data)
    outcomes = outcomes_of(condition, data)
    first_rows = data.offsets[:-1]
    values = np.stack([condition.initial(*column[row]) for row in first_rows])
    assert values.shape == (len(data), condition.width)
    compared = 0
    for t in range(int(data.lengths.max())):
        live = np.flatnonzero(data.lengths > t)
        rows = first_rows[live] + t
        np.testing.assert_allclose(values[live], column[rows], rtol=1e-5, atol=1e-4)
        compared += len(live)
        before = values[live]
        following = condition.after(before, outcomes[rows])
        assert (following.shape, following.dtype) == (before.shape, np.float64)
        np.testing.assert_array_equal(before, values[live])  # not changed in place
        values[live] = following
    assert compared == data.num_steps


@every_case
def test_at_the_end_of_an_episode_nothing_is_left_unless_the_value_is_kept(name, options):
    data = telling_data(with_cost=True)
    condition = make(name, data, options)
    column = checked_column(condition, data).astype(np.float64)
    last_rows = data.offsets[1:] - 1
    left = condition.after(column[last_rows], outcomes_of(condition, data)[last_rows])
    is_kept = options.get("update") == "keep"
    np.testing.assert_allclose(left, column[data.offsets[:-1]] if is_kept else 0, atol=1e-4)


@every_case
def test_a_condition_comes_back_from_json_as_it_was(name, options):
    condition = make(name, telling_data(with_cost=True), options)
    values = json.loads(json.dumps(condition.to_dict(), allow_nan=False))
    assert values["name"] == name
    assert type(condition).from_dict(values) == condition
    assert conditions_from_dicts([values], where="test") == (condition,)


@every_condition
def test_width_shape_scale_and_names_are_what_they_promise(name):
    data = telling_data(with_cost=True)
    condition = make(name, data, {})
    assert condition.name == name
    assert isinstance(condition.outcome, str)
    column = condition.column(data)
    assert column.dtype == np.float32
    assert column.shape in ((data.num_steps,), (data.num_steps, condition.width))
    assert checked_column(condition, data).shape == (data.num_steps, condition.width)
    first = condition.initial(*[3.0] * condition.width)
    assert (first.shape, first.dtype) == ((condition.width,), np.float64)
    assert first.tolist() == [3.0] * condition.width  # not scaled
    # A power of ten at or below the largest value: 300 of returns, 4.41e4 of costs.
    assert condition.scale == {"return_to_go": 100.0, "cost_to_go": 1000.0}[name]


@every_condition
def test_the_column_is_a_naive_sum_over_the_rest_of_the_episode(name):
    data = telling_data(with_cost=True)
    condition = make(name, data, {})
    outcomes = outcomes_of(condition, data)
    expected = [
        sum(outcomes[row:end])
        for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True)
        for row in range(start, end)
    ]
    np.testing.assert_allclose(condition.column(data), expected, rtol=1e-6)


@every_condition
@pytest.mark.parametrize("target", [float("nan"), float("inf"), 1e39, "5", True])
def test_a_target_that_is_no_finite_number_is_refused_with_a_fix(name, target):
    condition = make(name, telling_data(with_cost=True), {})
    with pytest.raises(RLTransformerError, match="is not a finite number") as caught:
        condition.initial(target)
    assert caught.value.fix == "pass a finite target"


def test_conditions_of_a_run_come_in_the_order_of_its_options():
    data = telling_data(with_cost=True)
    config = RunConfig()
    for names in (["return_to_go", "cost_to_go"], ["cost_to_go", "return_to_go"], ["cost_to_go"], []):
        config.model.conditions = names
        assert [condition.name for condition in conditions_from_data(data, config)] == names
    config.model.conditions = ["cost_to_go", "return_to_come"]
    with pytest.raises(RLTransformerError, match="no condition 'return_to_come'") as caught:
        conditions_from_data(data, config)
    assert "did you mean return_to_go?" in caught.value.fix


def test_sums_to_go_stop_at_the_end_of_every_episode():
    sums = sum_to_go(np.array([1.0, 2, 3, 10, 20, 100]), np.array([0, 3, 5, 6]))
    assert sums.tolist() == [6, 5, 3, 30, 20, 100]


BAD_COSTS = {
    "no column": (lambda cost: {}, r"no column 'cost' .* it has actions, observations, returns_to_go, rewards"),
    "two numbers per step": (lambda cost: {"cost": np.stack([cost, cost], 1)}, r"it has cost of shape \(13, 2\)"),
    "NaN": (lambda cost: {"cost": np.where(cost == 1030, np.nan, cost)}, "episode 1, step 3 is not finite"),
    "more than float32 holds": (lambda cost: {"cost": cost.astype(np.float64) * 1e300}, "more than float32 can hold"),
}


@pytest.mark.parametrize("name", BAD_COSTS)
def test_costs_that_cannot_be_summed_are_refused_with_their_place(name):
    change, message = BAD_COSTS[name]
    data = telling_data(with_cost=True)
    episodes = []
    for i in range(len(data)):
        t = data.trajectory(i)
        episode = {"observations": t.observations, "actions": t.actions, "rewards": t.rewards, "terminated": True}
        episodes.append({**episode, **change(t.extras["cost"])})
    changed = TrajectoryDataset.from_episodes(episodes)
    with pytest.raises(RLTransformerError, match=message) as caught:
        make("cost_to_go", changed, {})
    assert caught.value.fix


class _Half:
    """A condition of a plugin that counts steps down; each subclass breaks one promise."""

    name = "half"
    outcome = "reward"
    width = 1
    scale = 1.0

    @classmethod
    def from_data(cls, dataset, config):
        return cls()

    def column(self, dataset):
        return np.zeros(dataset.num_steps, np.float32)

    def initial(self, target):
        return np.array([float(target)])

    def after(self, value, outcome):
        return value

    def to_dict(self):
        return {"name": self.name}

    @classmethod
    def from_dict(cls, values):
        return cls()


class _WrongShape(_Half):
    def column(self, dataset):
        return np.zeros((dataset.num_steps, 2), np.float32)


class _NotFinite(_Half):
    def column(self, dataset):
        return np.full(dataset.num_steps, np.nan, np.float32)


class _Raises(_Half):
    def column(self, dataset):
        raise ZeroDivisionError


BROKEN = {
    _WrongShape: r"column\(\) has shape \(13, 2\), not \(13, 1\)",
    _NotFinite: r"column\(\) holds NaN or infinite values",
    _Raises: r"column\(\) raised ZeroDivisionError",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_condition_of_a_plugin_that_breaks_the_contract_is_named(kind):
    with loading_plugin("my_plugin"):
        CONDITIONS.register("half", kind)
    try:
        config = RunConfig()
        config.model.conditions = ["half"]
        (condition,) = conditions_from_data(telling_data(), config)
        with pytest.raises(RLTransformerError, match=f"condition 'half' breaks its contract: {BROKEN[kind]}") as caught:
            checked_column(condition, telling_data())
        assert caught.value.where == "plugin my_plugin"
    finally:
        CONDITIONS.unregister("half")
