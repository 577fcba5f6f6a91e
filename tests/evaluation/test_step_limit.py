"""Claims about episodes that do not end by themselves."""

from dataclasses import replace

import gymnasium as gym
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, evaluate, train
from rl_transformer.evaluation import step_limit as step_limit_module
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.step_limit import LIMIT_FACTOR
from rl_transformer.policy.policy import Policy
from tests.environments.foreign import EndlessEnv
from tests.toys import POINT, PointEnv, point_data, tiny_config, untrained_policy

ENDLESS = "tests/Endless-v0"
LIMITED = "tests/EndlessLimited-v0"
for env_id, limit in {ENDLESS: None, LIMITED: 200}.items():
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=EndlessEnv, max_episode_steps=limit)


@pytest.fixture(scope="module")
def policy():
    return untrained_policy(point_data())


def run(policy, environment, **options):
    return evaluate(policy, environment, target_returns=[5.0], num_episodes=3, **options)


def test_an_environment_without_end_is_cut_at_a_multiple_of_the_longest_episode_of_the_data(policy):
    """Reported as d3rlpy#209: evaluation in an environment without time limit never ends."""
    for given in (ENDLESS, EndlessEnv, EndlessEnv()):
        report = run(policy, given)
        (target,) = report.targets
        assert target.episode_lengths == [12 * LIMIT_FACTOR] * 3
        assert target.truncated_by_limit == 3
        assert report.max_steps == 12 * LIMIT_FACTOR
        assert "3 of 3 episodes were cut off after 120 steps; --max-steps N" in str(report)


def test_max_steps_cuts_and_what_the_environment_ends_is_not_counted(policy):
    report = run(policy, ENDLESS, max_steps=30)
    assert report.targets[0].episode_lengths == [30] * 3
    assert report.targets[0].truncated_by_limit == 3
    for max_steps in (12, 13, None):
        report = run(policy, POINT, max_steps=max_steps)
        assert report.targets[0].episode_lengths == [12] * 3
        assert report.targets[0].truncated_by_limit == 0
        assert "cut off" not in str(report)
    for max_steps in (0, -3):
        with pytest.raises(RLTransformerError, match=f"max_steps: is {max_steps}"):
            run(policy, POINT, max_steps=max_steps)


def test_an_environments_own_time_limit_decides_if_it_has_one(policy):
    report = run(policy, ENDLESS, env_kwargs={"max_episode_steps": 200})
    assert report.targets[0].episode_lengths == [200] * 3
    assert report.targets[0].truncated_by_limit == 0
    assert report.max_steps is None
    # The spec of an unwrapped environment may still name the limit of the wrapper that is gone.
    assert run(policy, LIMITED).targets[0].episode_lengths == [200] * 3
    unwrapped = gym.make(LIMITED).unwrapped
    unwrapped.spec = gym.spec(LIMITED)
    assert run(policy, unwrapped).targets[0].episode_lengths == [120] * 3


def test_a_policy_that_does_not_know_the_longest_episode_is_cut_by_its_timestep_table(policy):
    """Policies of formats 1 to 3 have no longest_episode."""
    assert policy.spec.longest_episode == 12
    old = Policy(replace(policy.spec, longest_episode=None), policy.model, policy.normalizer)
    assert run(old, ENDLESS).max_steps == LIMIT_FACTOR * policy.spec.model.max_ep_len


def test_evaluation_while_training_ends_in_an_environment_without_end(tmp_path):
    """A sibling of d3rlpy#209: here the training run would never end."""
    evaluation = {"env_id": ENDLESS, "target_returns": [4.0], "num_episodes": 2}
    assert (train(tiny_config(tmp_path / "run", evaluation=evaluation), dataset=point_data()) / "report.json").exists()


def test_recording_is_cut_and_the_episode_says_that_it_was(policy, monkeypatch, capsys):
    def recorded(environment, **options):
        return TrajectoryDataset.in_memory(*record_episodes(environment, "endless", 2, seed=0, **options))

    data = recorded(EndlessEnv(), policy=policy, target=5.0)
    assert data.lengths.tolist() == [120, 120]
    assert data.trajectory(0).truncated
    assert "note: 2 of 2 episodes were cut off after 120 steps" in capsys.readouterr().out
    assert recorded(EndlessEnv(), max_steps=9).lengths.tolist() == [9, 9]
    monkeypatch.setattr(step_limit_module, "RANDOM_STEP_LIMIT", 50)
    assert recorded(EndlessEnv()).lengths.tolist() == [50, 50]
    capsys.readouterr()
    complete = recorded(PointEnv(), max_steps=12)
    assert complete.trajectory(0).terminated
    assert not complete.trajectory(0).truncated
    assert capsys.readouterr().out == ""
