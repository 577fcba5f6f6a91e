"""Claims about environments that others wrote: harmless forms are taken, and a fault is reported as theirs."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate
from rl_transformer.evaluation.collection import record_episodes
from tests.environments.foreign import (
    BufferEnv,
    ChangedEnv,
    FailingEnv,
    OldEnv,
    ParallelEnv,
    WrongResetEnv,
)
from tests.toys import PointEnv, point_data, untrained_policy


@pytest.fixture(scope="module")
def policy():
    return untrained_policy(point_data())


def returns(policy, environment):
    (target,) = evaluate(policy, environment, target_returns=[5.0], num_episodes=2).targets
    return target.episode_returns


def refusal(policy, environment, **options):
    """Return the error of evaluating, and of collecting with random actions, which must be the same."""
    with pytest.raises(RLTransformerError) as caught:
        evaluate(policy, environment, target_returns=[5.0], num_episodes=2, **options)
    return caught.value


@pytest.mark.parametrize(
    "form",
    [
        lambda number: np.array([number]),
        lambda number: np.array(number),
        lambda number: np.array([[number]], np.float64),
        np.float64,
        lambda number: [number],
        lambda number: torch.tensor([number], dtype=torch.float64),
        lambda number: torch.tensor(number, dtype=torch.float64, requires_grad=True),
    ],
)
def test_a_reward_is_one_number_in_whatever_form(policy, form):
    """Reported as tianshou#865: a reward that is an array of one number."""
    environment = ChangedEnv(lambda o, reward, te, tr, info: (o, form(reward), te, tr, info))
    assert returns(policy, environment) == returns(policy, PointEnv())


@pytest.mark.parametrize("form", [np.bool_, lambda end: np.array([end]), int, lambda end: torch.tensor(end)])
def test_ends_are_taken_in_whatever_form(policy, form):
    """Reported as tianshou#865; here the ends: numpy booleans, arrays of size 1, 0 and 1."""
    environment = ChangedEnv(lambda o, r, terminated, truncated, info: (o, r, form(terminated), form(truncated), info))
    assert returns(policy, environment) == returns(policy, PointEnv())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda o, r, te, tr, info: (o, r, te, info), "its step() returns a tuple of 4 and not five values"),
        (lambda o, r, te, tr, info: (o, {"red": r}, te, tr, info), "its reward is a dict with the keys ['red']"),
        (lambda o, r, te, tr, info: (o, np.zeros(2), te, tr, info), "its reward is an array of shape (2,)"),
        (lambda o, r, te, tr, info: (o, None, te, tr, info), "its reward is None"),
        (lambda o, r, te, tr, info: (o, "1", te, tr, info), "its reward is '1'"),
        (lambda o, r, te, tr, info: (o, np.nan, te, tr, info), "its reward nan is not finite"),
        (lambda o, r, te, tr, info: (o, r, {"red": te}, tr, info), "its terminated is a dict"),
        (lambda o, r, te, tr, info: (o, r, te, None, info), "its truncated is None"),
        (lambda o, r, te, tr, info: (o, r, 7, tr, info), "its terminated is 7"),
        (lambda o, r, te, tr, info: (o[:1], r, te, tr, info), "its observation has shape (1,), and its space (2,)"),
        (lambda o, r, te, tr, info: ({"red": o}, r, te, tr, info), "its observation is a dict with the keys ['red']"),
    ],
)
def test_other_results_of_a_step_are_refused_with_the_cure(policy, change, problem):
    """Reported as tianshou#865 and Gymnasium#567: tuples of four, arrays of rewards, dicts by agent."""
    error = refusal(policy, lambda: ChangedEnv(change))
    assert problem in error.problem
    assert error.where == "ChangedEnv"
    assert len(error.fix) > 20
    with pytest.raises(RLTransformerError) as caught:
        list(record_episodes(ChangedEnv(change), "recorded", 1, seed=0)[1])
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda o, info: o, "its reset() returns an array of shape (2,) and not (observation, info)"),
        (lambda o, info: (o, info, 0), "its reset() returns a tuple of 3"),
        (lambda o, info: (o, 0.0), "its reset() returns a tuple of 2"),
        (lambda o, info: (o[:1], info), "its observation has shape (1,)"),
    ],
)
def test_other_results_of_a_reset_are_refused_with_the_cure(policy, change, problem):
    """Reported as Gymnasium#567: a reset() that returns only an observation."""
    error = refusal(policy, WrongResetEnv(change))
    assert problem in error.problem


def test_an_info_that_is_missing_does_no_harm(policy):
    environment = ChangedEnv(lambda o, r, te, tr, info: (o, r, te, tr, None))
    assert returns(policy, environment) == returns(policy, PointEnv())


@pytest.mark.filterwarnings("ignore")
def test_the_old_gym_api_is_recognized_behind_wrappers_too(policy):
    """Reported as SB3#1148 and many others: four values, unpacked as five by a wrapper."""
    old = refusal(policy, OldEnv())
    assert "unexpected keyword argument 'seed'" in old.problem
    assert "GymV21Environment-v0" in old.fix
    four = gym.wrappers.TimeLimit(ChangedEnv(lambda o, r, te, tr, info: (o, r, te, info)), 5)
    error = refusal(policy, four)
    assert "that is the old gym API" in error.problem
    assert "GymV21Environment-v0" in error.fix


def test_environments_of_several_agents_and_vectors_of_environments_are_named(policy):
    """Reported as tianshou#865: PettingZoo's dicts by agent."""
    for given in (ParallelEnv(), ParallelEnv):
        assert "is a PettingZoo environment of several agents" in refusal(policy, given).problem
    vector = gym.vector.SyncVectorEnv([PointEnv, PointEnv])
    assert "is a vector of 2 environments" in refusal(policy, vector).problem
    assert "without reset, step" in refusal(policy, 3).problem
    assert "without reset, step" in refusal(policy, lambda: None).problem


@pytest.mark.parametrize("error", [SystemExit(0), OSError("disk on fire"), ValueError("no"), AssertionError()])
@pytest.mark.parametrize("method", ["reset", "step"])
def test_what_an_environment_raises_is_blamed_on_it(policy, method, error):
    """SystemExit(0) ended the command with exit code 0 and nothing written; OSError was blamed on the output."""
    found = refusal(policy, FailingEnv(method, error))
    assert found.where == "FailingEnv"
    assert found.problem.startswith(f"its {method}() raised {type(error).__name__}")
    assert found.__cause__ is error


def test_a_fault_while_closing_does_not_cost_the_result(policy, capsys):
    assert len(returns(policy, lambda: FailingEnv("close", OSError("gone")))) == 2
    assert "its close() raised OSError: gone" in capsys.readouterr().out


def test_an_environment_that_cannot_render_is_found_before_any_step(policy):
    """Reported as Gymnasium#567: a traceback of the first frame, after the episodes had begun."""

    class Blind(PointEnv):
        steps_taken = 0

        def step(self, action):
            Blind.steps_taken += 1
            return super().step(action)

        def render(self):
            return None

    error = refusal(policy, Blind(), record=1)
    assert "cannot render: its render() returns None" in error.problem
    assert "render_mode='rgb_array'" in error.fix
    assert Blind.steps_taken == 0
    failing = FailingEnv("render", RuntimeError('pygame is not installed, run `pip install "gymnasium[classic]"`'))
    assert refusal(policy, failing, record=1).fix == 'pip install "gymnasium[classic]"'


def test_an_environment_that_returns_its_own_buffer_is_recorded_and_evaluated_as_it_was(policy):
    """An episode of twelve equal observations was recorded, and actions that the environment had changed in place."""
    expected = TrajectoryDataset.in_memory(*record_episodes(PointEnv(), "p", 2, seed=1))
    buffered = TrajectoryDataset.in_memory(*record_episodes(BufferEnv(), "p", 2, seed=1))
    np.testing.assert_array_equal(buffered.observations, expected.observations)
    np.testing.assert_array_equal(buffered.actions, expected.actions)
    assert returns(policy, BufferEnv()) == returns(policy, PointEnv())


def test_parts_of_dict_observations_are_copied_and_compared_with_the_space():
    class Dicts(PointEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Dict({"at": gym.spaces.Box(-9, 9, (1,)), "n": gym.spaces.Discrete(20)})
            self._at = np.zeros(1, np.float32)

        def _view(self):
            self._at[0] = self.at
            return {"at": self._at, "n": self.steps}

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self._view(), {}

        def step(self, action):
            _, *rest = super().step(action)
            return self._view(), *rest

    data = TrajectoryDataset.in_memory(*record_episodes(Dicts(), "d", 1, seed=0))
    assert len(np.unique(data.observations[:, 0])) == 12

    class Partial(Dicts):
        def _view(self):
            return {"at": copy.copy(self._at)}

    with pytest.raises(RLTransformerError, match=r"its observation has the parts \['at'\], and its space"):
        TrajectoryDataset.in_memory(*record_episodes(Partial(), "d", 1, seed=0))
