"""Claims about normalized scores: the numbers of the papers, the right task, and their mean over games and seeds."""

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.evaluation.episodes import Episode
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.evaluation.references import REFERENCES, find_reference
from rl_transformer.evaluation.report import EvaluationReport, TargetReport
from rl_transformer.evaluation.statistics import interquartile_mean_over_games
from rl_transformer.evaluation.training_seeds import combine_seeds
from tests.toys import POINT, point_data, untrained_policy


def target_of(returns, reference):
    episodes = [Episode(target_return=1.0, seed=0, episode_return=value, episode_length=10) for value in returns]
    return TargetReport.from_episodes(1.0, episodes, reference, {})


@pytest.mark.parametrize(
    ("name", "score", "expected"),
    [
        ("hopper", 3600, 111.24),
        ("halfcheetah", 6000, 50.58),
        ("walker2d", 5000, 108.88),
        ("atari-breakout", 76.9, 267.5),
        ("atari-qbert", 2215.8, 15.4),
        ("atari-seaquest", 1129.3, 2.5),
        ("atari-pong", 17.1, 106.1),
    ],
)
def test_normalized_scores_are_those_of_the_papers(name, score, expected):
    """Of the Atari games: Table 12 of Chen et al. 2021 normalized, against its Table 1."""
    assert REFERENCES[name].normalized(score) == pytest.approx(expected, abs=0.35)


def test_a_report_says_where_its_reference_comes_from():
    target = target_of([3600.0, 3600.0], REFERENCES["hopper"])
    assert target.reference == "d4rl/infos.py: hopper"
    assert target.normalized_score == pytest.approx(111.24, abs=0.005)
    assert target_of([20.0], REFERENCES["atari-breakout"]).reference == "Chen et al. 2021, Table 11: atari-breakout"
    assert target_of([3600.0], None).normalized_score is None


def test_the_score_over_training_seeds_is_that_of_their_mean():
    reference = REFERENCES["atari-breakout"]
    reports = {
        seed: EvaluationReport("x", "hash", 2, 0, [target_of(returns, reference)])
        for seed, returns in enumerate([[10.0, 20.0], [4.0, 8.0], [30.0, 0.0]])
    }
    (target,) = combine_seeds(reports).targets
    assert target.normalized_score == pytest.approx(reference.normalized(12.0))
    assert target.reference == str(reference)


@pytest.mark.parametrize(
    ("reference", "env_id", "instead"),
    [
        ("atari-pong", "ALE/Breakout-v5", "atari-breakout"),
        ("atari-pong", "BreakoutNoFrameskip-v4", "atari-breakout"),
        ("atari-pong", "ALE/Tennis-v5", "leave it out"),
        ("hopper", "ALE/Pong-v5", "atari-pong"),
        ("hopper", "HalfCheetah-v5", "halfcheetah"),
    ],
)
def test_the_scores_of_another_task_are_refused(reference, env_id, instead):
    with pytest.raises(RLTransformerError, match="scores of another task") as error:
        find_reference(reference, env_id)
    assert instead in error.value.fix


@pytest.mark.parametrize(
    ("reference", "env_id"),
    [
        ("atari-pong", "ALE/Pong-v5"),
        ("atari-pong", "PongNoFrameskip-v4"),
        ("atari-pong", "Pong-ramDeterministic-v4"),
        ("hopper", "Hopper-v5"),
        ("hopper", "MyHopperWrapper"),
        ("hopper", "custom/Robot-v0"),
    ],
)
def test_the_task_itself_and_names_of_ones_own_are_accepted(reference, env_id):
    find_reference(reference, env_id)


def test_an_unknown_reference_is_refused_before_any_episode():
    policy = untrained_policy(point_data())
    with pytest.raises(RLTransformerError, match="no reference scores for 'breakout'") as error:
        evaluate(policy, env_id=POINT, target_returns=[4.0], num_episodes=1, reference="breakout")
    assert error.value.fix.startswith("did you mean atari-breakout")


def test_the_mean_over_games_is_that_of_the_middle_half_of_all_runs():
    scores = {"Breakout": [0.0, 100.0, 200.0, 300.0], "Pong": [-1000.0, 50.0, 60.0, 5000.0]}
    found = interquartile_mean_over_games(scores)
    assert found["mean"] == pytest.approx(np.mean([50, 60, 100, 200]))  # of 8 runs, without two at either end
    assert found["games"] == ["Breakout", "Pong"]
    low, high = found["interval"]
    assert low < found["mean"] < high


def test_runs_are_resampled_within_their_game_and_a_single_run_has_no_interval():
    """Games that differ much and runs that do not: resampling across games would give a wide interval."""
    low, high = interquartile_mean_over_games({"A": [0.0, 0.0], "B": [100.0, 100.0]})["interval"]
    assert (low, high) == (50.0, 50.0)
    assert interquartile_mean_over_games({"A": [1.0, 2.0], "B": [3.0]})["interval"] is None


def test_every_reference_has_a_scale_of_its_own():
    assert all(reference.random < reference.expert for reference in REFERENCES.values())
    assert {reference.task for reference in REFERENCES.values()} == {
        "halfcheetah", "hopper", "walker2d", "breakout", "qbert", "pong", "seaquest",
    }  # fmt: skip
