"""Claims about mistakes with a second condition: each is an error that names the fix, and the fix works."""

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, load_policy, train
from tests.toys import POINT, TOLL, TollEnv, point_data, tiny_config, toll_data, untrained_policy

BOTH = ["return_to_go", "cost_to_go"]
TARGETS = {"cost_to_go": 90.0}


class SilentTollEnv(TollEnv):
    """The toll, whose info says nothing of costs."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"toll": 1.0}


SILENT = "tests/SilentToll-v0"
if SILENT not in gym.registry:
    gym.register(SILENT, entry_point=SilentTollEnv)


@pytest.fixture
def policy():
    return untrained_policy(toll_data(3), model={"conditions": BOTH})


@pytest.fixture
def session(policy):
    """A session that has acted and awaits its outcome."""
    session = policy.session(6.0, targets=TARGETS)
    session.act(np.zeros(2))
    return session


def without_cost(data):
    """Return the episodes as dicts, without the column cost."""
    return [
        {
            "observations": episode.observations,
            "actions": episode.actions,
            "rewards": episode.rewards,
            "terminated": episode.terminated,
        }
        for episode in (data.trajectory(i) for i in range(len(data)))
    ]


def test_data_without_costs_is_refused_and_recording_them_or_leaving_the_condition_out_helps(tmp_path):
    data = toll_data(3)
    spaces = {"observation_space": data.spec.observation_space, "action_space": data.spec.action_space}
    bare = TrajectoryDataset.from_episodes(without_cost(data), **spaces)
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH})
    with pytest.raises(RLTransformerError, match="the data has no column 'cost' with one number per step") as caught:
        train(config, dataset=bare)
    assert caught.value.where == "model.conditions: cost_to_go"
    assert caught.value.fix == (
        "record the cost of every step as the array 'cost' of each episode, or leave cost_to_go out"
    )
    recorded = [{**episode, "cost": data.trajectory(i).extras["cost"]} for i, episode in enumerate(without_cost(data))]
    policy = load_policy(train(config, dataset=TrajectoryDataset.from_episodes(recorded, **spaces)))
    assert [condition.name for condition in policy.spec.conditions] == BOTH
    left_out = tiny_config(tmp_path / "left out")
    assert load_policy(train(left_out, dataset=bare)).session(6.0).conditions == {"return_to_go": 6.0}


def test_a_missing_target_is_refused_with_the_range_of_the_data_and_passing_one_helps(policy):
    for attempt in (
        lambda **targets: policy.session(6.0, **targets),
        lambda **targets: policy.sessions([6.0, 7.0], [0, 1], **targets),
        lambda **targets: evaluate(policy, env_id=TOLL, target_returns=[6.0], num_episodes=1, **targets),
    ):
        with pytest.raises(RLTransformerError, match="no target for cost_to_go is given") as caught:
            attempt()
        low, high = policy.spec.target_ranges["cost_to_go"]
        assert f"training episodes had {low:g} to {high:g}" in caught.value.problem
        assert "pass targets={'cost_to_go': VALUE}" in caught.value.fix
        attempt(targets={"cost_to_go": 90.0})


def test_a_missing_target_is_found_before_training(tmp_path):
    evaluation = {"env_id": TOLL, "target_returns": [4.0], "num_episodes": 1}
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH}, evaluation=evaluation)
    with pytest.raises(RLTransformerError, match="no target for cost_to_go is given"):
        train(config, dataset=toll_data(3))
    assert not (tmp_path / "run" / "checkpoints").exists()
    config.evaluation.targets = dict(TARGETS)
    train(config, dataset=toll_data(3))


def test_an_outcome_that_is_not_reported_is_refused_and_reporting_it_helps(session):
    with pytest.raises(RLTransformerError, match="changes by the cost of each action, and none was reported") as caught:
        session.observe(1.0)
    assert caught.value.fix.startswith("call observe(reward, cost=...)")
    assert session.conditions == {"return_to_go": 6.0, "cost_to_go": 90.0}  # nothing was counted
    session.observe(1.0, cost=10.0)
    assert session.conditions == {"return_to_go": 5.0, "cost_to_go": 80.0}


def test_an_outcome_that_no_condition_uses_is_refused_and_leaving_it_out_helps(session):
    with pytest.raises(RLTransformerError, match="no condition of this policy uses the outcome 'fuel'") as caught:
        session.observe(1.0, cost=10.0, fuel=3.0)
    assert caught.value.fix == "leave fuel out"
    session.observe(1.0, cost=10.0)
    assert session.conditions == {"return_to_go": 5.0, "cost_to_go": 80.0}
    plain = untrained_policy(point_data(3)).session(6.0)
    plain.act(np.zeros(2))
    with pytest.raises(RLTransformerError, match="no condition of this policy uses the outcome 'cost'"):
        plain.observe(1.0, cost=10.0)
    plain.observe(1.0)


BAD_COSTS = {
    "NaN": (float("nan"), "the cost nan is not finite", "repair the environment's cost"),
    "infinite": (float("inf"), "the cost inf is not finite", "repair the environment's cost"),
    "a list": ([1.0, 2.0], r"cost has shape \(1, 2\) for 1 sessions", "pass one number per session"),
    "beyond float32": (-1e300, "cost_to_go exceeds the range of float32", "repair the environment's cost"),
}


@pytest.mark.parametrize("name", BAD_COSTS)
def test_a_cost_that_is_no_finite_number_is_refused_and_nothing_is_counted(name, session):
    cost, message, fix = BAD_COSTS[name]
    with pytest.raises(RLTransformerError, match=message) as caught:
        session.observe(1.0, cost=cost)
    assert caught.value.fix == fix
    session.observe(1.0, cost=10.0)
    assert session.conditions == {"return_to_go": 5.0, "cost_to_go": 80.0}


BAD_TARGETS = {
    "an unknown condition": (
        {**TARGETS, "fuel_to_go": 1.0},
        "'fuel_to_go' is not a condition of this policy other than the return",
        "choose among",
    ),
    "the return": (
        {**TARGETS, "return_to_go": 5.0},
        "is not a condition of this policy other than the return",
        "pass it as target_return",
    ),
    "NaN": ({"cost_to_go": float("nan")}, "nan is not a finite number", "pass a finite target"),
    "too large": ({"cost_to_go": 1e39}, "is not a finite number", "pass a finite target"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_a_target_that_means_nothing_is_refused_with_the_fix(name, policy):
    targets, message, fix = BAD_TARGETS[name]
    with pytest.raises(RLTransformerError, match=message) as caught:
        policy.session(6.0, targets=targets)
    assert fix in caught.value.fix
    policy.session(6.0, targets=TARGETS)


def test_a_policy_without_a_cost_refuses_a_target_for_it():
    policy = untrained_policy(point_data(3))
    with pytest.raises(
        RLTransformerError,
        match=r"'cost_to_go' is not a condition of this policy other than the return\n  fix: choose among",
    ):
        evaluate(policy, env_id=POINT, targets=TARGETS, num_episodes=1)


def test_an_environment_that_does_not_report_costs_is_refused_and_one_that_does_helps(policy):
    asked = {"target_returns": [6.0], "targets": TARGETS, "num_episodes": 1}
    with pytest.raises(RLTransformerError, match=r"needs the cost of every action, and info has \['toll'\]") as caught:
        evaluate(policy, env_id=SILENT, **asked)
    assert caught.value.where == SILENT
    assert caught.value.fix == "use an environment (or a wrapper) whose step() returns info['cost']"
    assert evaluate(policy, env_id=TOLL, **asked).targets[0].episode_outcomes["cost"]


def test_a_policy_of_costs_alone_needs_no_target_return(tmp_path):
    config = tiny_config(tmp_path / "run", model={"conditions": ["cost_to_go"]})
    policy = load_policy(train(config, dataset=toll_data(3)))
    with pytest.raises(RLTransformerError, match="takes no target return, and 6 was given"):
        policy.session(6.0, targets=TARGETS)
    session = policy.session(targets=TARGETS)
    session.act(np.zeros(2))
    session.observe(1.0, cost=10.0)
    assert session.conditions == {"cost_to_go": 80.0}
    (target,) = evaluate(policy, env_id=TOLL, targets=TARGETS, num_episodes=2).targets
    assert (target.target_return, target.targets) == (None, TARGETS)


def test_a_resumed_run_notices_that_the_costs_have_changed(tmp_path):
    data = toll_data(3)
    changed = TrajectoryDataset(data.spec, {**data.columns, "cost": data.columns["cost"] + 1}, data.summary)
    config = tiny_config(tmp_path / "run", model={"conditions": BOTH}, training={"train_steps": 4})
    train(config, dataset=data)
    config.training.train_steps = 8
    with pytest.raises(RLTransformerError, match="the data has changed since the checkpoint was written"):
        train(config, dataset=changed, resume=True)
    train(config, dataset=data, resume=True)
