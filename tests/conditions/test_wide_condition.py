"""Claims about a condition of several numbers that a plugin brings: it goes every way that the built-in ones go."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, evaluate, load_policy, train
from rl_transformer.conditions import CONDITIONS
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.runtime.registry import loading_plugin
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import TOLL, tiny_config, toll_data, untrained_policy

TARGET = [30.0, -6.0]
BOTH = ["spending", "return_to_go"]


@dataclass(frozen=True)
class Spending:
    """The cost that is still to come, and minus the number of steps that are."""

    name = "spending"
    outcome = "cost"
    width = 2
    scale: float = 10.0

    @classmethod
    def from_data(cls, dataset, config):
        return cls()

    def column(self, dataset):
        rows = []
        for i in range(len(dataset)):
            cost = dataset.trajectory(i).extras["cost"]
            rows.append(np.stack([np.cumsum(cost[::-1])[::-1], -np.arange(len(cost), 0, -1)], axis=1))
        return np.concatenate(rows).astype(np.float32)

    def initial(self, target):
        return np.array(target, np.float64)

    def after(self, value, outcome):
        return value - np.stack([outcome, np.full(len(outcome), -1.0)], axis=1)

    def to_dict(self):
        return {"name": self.name, "scale": self.scale}

    @classmethod
    def from_dict(cls, values):
        return cls(values["scale"])


@pytest.fixture(autouse=True)
def _registered():
    with loading_plugin("my_plugin"):
        CONDITIONS.register("spending", Spending)
    yield
    CONDITIONS.unregister("spending")


def test_sessions_feed_the_model_what_training_windows_hold():
    data = toll_data(3)
    policy = untrained_policy(data, model={"conditions": BOTH})
    assert policy.spec.model.condition_widths == (2, 1)
    gatherer = make_gatherer(policy.spec, policy.normalizer, data, 5, policy.device)
    logged = data.trajectory(1)
    window = gatherer.gather(WindowIndex(data.offsets[1:2], np.array([1])))
    first = [logged.extras["cost"].sum(), -12.0]
    session = policy.session(logged.rewards.sum(), targets={"spending": first})
    assert session.conditions["spending"] == pytest.approx(first)
    for t in range(5):
        session.act(logged.observations[t])
        newest = session._batch._history.columns["conditions"][t]
        torch.testing.assert_close(newest, window.conditions[0, t], atol=1e-5, rtol=1e-5)
        session.observe(logged.rewards[t], cost=logged.extras["cost"][t])


def test_a_policy_with_a_wide_condition_is_trained_saved_loaded_and_evaluated(tmp_path):
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH})
    policy = load_policy(train(config, dataset=toll_data(3)))
    assert policy.spec.conditions[0] == Spending()
    report = evaluate(policy, env_id=TOLL, target_returns=[6.0], targets={"spending": TARGET}, num_episodes=2)
    assert report.targets[0].targets == {"spending": TARGET}
    assert "(target spending [30, -6])" in str(report)
    assert policy.target_warning([8.0], {"spending": TARGET}) is None  # -6 and 30 lie among the first values
    assert "target spending [900, 1]" in policy.target_warning([8.0], {"spending": [900.0, 1.0]})


def test_a_policy_whose_plugin_is_not_loaded_names_the_condition(tmp_path):
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH})
    folder = train(config, dataset=toll_data(3))
    CONDITIONS.unregister("spending")
    try:
        with pytest.raises(RLTransformerError, match="there is no condition 'spending'") as caught:
            load_policy(folder)
        assert "pass --plugin MODULE" in caught.value.fix
    finally:
        with loading_plugin("my_plugin"):
            CONDITIONS.register("spending", Spending)


@pytest.mark.parametrize("target", [[1.0, 2.0, 3.0], 1.0, [1.0, float("nan")], [1.0, 1e39]], ids=str)
def test_a_target_of_another_width_or_without_finite_numbers_is_refused_with_the_fix(target):
    policy = untrained_policy(toll_data(3), model={"conditions": BOTH})
    with pytest.raises(RLTransformerError, match="of spending is not 2 finite numbers") as caught:
        policy.session(6.0, targets={"spending": target})
    assert caught.value.fix == "pass 2 finite numbers"
    policy.session(6.0, targets={"spending": TARGET})


def test_a_plugin_that_fails_on_a_target_is_named():
    policy = untrained_policy(toll_data(3), model={"conditions": BOTH})
    with pytest.raises(
        RLTransformerError, match=r"'spending' breaks its contract: initial\(\) raised ValueError"
    ) as caught:
        policy.session(6.0, targets={"spending": "much"})
    assert caught.value.where == "plugin my_plugin"
