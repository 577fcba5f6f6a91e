"""Claims: what the page shows is the episode that `evaluate` runs; attention is that of the newest action."""

import numpy as np
import pytest

from rl_transformer import RLTransformerError, evaluate, load_policy, train
from rl_transformer.environments.sources import EnvironmentSource
from rl_transformer.play.game import Game
from tests.toys import DIALS, POINT, point_data, tiny_config, untrained_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(train(tiny_config(tmp_path_factory.mktemp("play") / "run"), dataset=point_data()))


def play(policy, env_id, target, seed):
    game = Game.of(policy, EnvironmentSource.of(env_id))
    states = [game.begin(target, seed)]
    while not states[-1]["over"]:
        states.append(game.step())
    game.close()
    return states


def test_the_episode_on_the_page_is_that_of_an_evaluation(policy):
    states = play(policy, POINT, 7.0, 5)
    report = evaluate(policy, POINT, target_returns=[7.0], num_episodes=1, seed=5)
    assert states[-1]["achieved"] == pytest.approx(report.targets[0].episode_returns[0], abs=1e-12)
    assert states[-1]["step"] == report.targets[0].episode_lengths[0]
    # The chart starts at the target, and falls by what was earned.
    assert states[0]["return_to_go"] == 7.0
    assert states[-1]["return_to_go"] == pytest.approx(7.0 - states[-1]["achieved"])
    assert all(state["frame"].startswith("data:image/png;base64,") for state in states)


def test_the_slider_begins_at_the_target_that_the_policy_advises(policy):
    game = Game.of(policy, EnvironmentSource.of(POINT))
    about = game.describe()
    game.close()
    assert about["default_target"] == policy.target_table().advised
    assert about["low"] <= about["default_target"] <= about["high"]


def test_attention_is_a_distribution_over_what_the_action_could_see(policy):
    for step, state in enumerate(play(policy, POINT, 7.0, 5)[1:], start=1):
        weights = np.array(state["attention"]["weights"])
        names = state["attention"]["tokens"]
        assert weights.shape == (min(step, policy.spec.context_length), len(names))
        assert weights.sum() == pytest.approx(1, abs=1e-3)
        assert names[-1] == "action"
        assert weights[-1, -1] == 0  # the newest action is what is being predicted
    assert weights.max() < 1  # after one step there is more to see than one token


def test_an_environment_that_draws_nothing_is_shown_by_its_numbers():
    policy = untrained_policy(point_data(), model={"arch": "behavior_cloning"}, returns={})
    game = Game.of(policy, EnvironmentSource.of(POINT, env_kwargs={}))
    game._draws = False
    state = game.begin(None, 0)
    assert state["frame"] is None
    assert len(state["observation"]) == 2
    assert state["return_to_go"] is None
    assert game.step()["attention"] is None  # an MLP has none
    game.close()


def test_steps_outside_of_an_episode_and_wrong_targets_are_refused(policy):
    game = Game.of(policy, EnvironmentSource.of(POINT))
    with pytest.raises(RLTransformerError, match="no episode is running"):
        game.step()
    with pytest.raises(RLTransformerError, match="target"):
        game.begin(float("nan"), 0)
    game.close()
    with pytest.raises(RLTransformerError, match=r"observation|action"):
        Game.of(policy, EnvironmentSource.of(DIALS))
