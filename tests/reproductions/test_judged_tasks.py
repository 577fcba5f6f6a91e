"""Claims about the tasks in which the judge's networks are tried: values are those of the episodes that are played."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from rl_transformer.reproductions import judged_play
from rl_transformer.reproductions.experiment import Setup, pick
from rl_transformer.reproductions.judge_environments import JudgeEnvironments, _chosen
from rl_transformer.reproductions.judged_hopper import MOST_STEPS, Hoppers
from rl_transformer.reproductions.judged_play import DRAWN_WITH, mixed
from rl_transformer.reproductions.judged_rows import describe_share
from rl_transformer.reproductions.judged_tasks import TASKS, behaviors_of, policies_of


@pytest.mark.parametrize("name", list(TASKS))
def test_the_best_policy_earns_all_there_is_and_the_worst_next_to_nothing(name):
    task = replace(TASKS[name], simulated=30 if name == "hopper" else 200)
    most = {"cartpole": 100, "hopper": 90}.get(name, 1)
    assert task.returns(task.best).mean() == pytest.approx(most, rel=0.03)
    assert task.returns(task.worst).mean() < 0.1 * most


@pytest.mark.parametrize("name", ["key-to-door", "t-maze"])
def test_exact_values_are_those_of_played_episodes(name):
    task = TASKS[name]
    act = mixed(behaviors_of(task)["usual"], task.worst, 0.1)
    data = task.record(act, 300, np.random.default_rng(0))
    (exact,) = task.returns(act)
    error = np.sqrt(exact * (1 - exact) / 300)
    assert abs(data.rewards.sum() / 300 - exact) < 3 * error


def test_simulated_differences_are_known_better_than_the_values():
    # Policies that nearly agree, with the same starts and noise, play nearly the same episodes.
    task = replace(TASKS["cartpole"], simulated=400)
    usual = task.returns(behaviors_of(task)["usual"])
    near = task.returns(policies_of(task)["best-0.025"])
    assert (near - usual).std() < 0.7 * usual.std()
    assert len(policies_of(task)) == 40


def test_simulated_episodes_are_played_in_parts_that_differ(monkeypatch):
    monkeypatch.setattr(judged_play, "_PLAYED_AT_ONCE", 100)
    task = replace(TASKS["cartpole"], simulated=250)
    usual = task.returns(behaviors_of(task)["usual"])
    assert len(usual) == 250
    first, second = usual[:100], usual[100:200]
    assert (first != second).any()
    # Every policy begins the parts alike.
    np.testing.assert_array_equal(task.returns(behaviors_of(task)["usual"]), usual)


def test_a_share_of_verdicts_has_an_interval_over_logs_because_those_of_one_log_err_together():
    def log(*words):
        return {"judged": {str(number): {"verdict": word} for number, word in enumerate(words)}}

    def abstention(logs):
        return describe_share(logs, lambda row: row["verdict"] == "no", lambda row: row["verdict"] != "left out")

    alike = [log("no", "no", "no", "no") if number % 2 else log("yes", "yes", "yes", "yes") for number in range(20)]
    low, high = (50 + sign * 100 * stats.t.ppf(0.975, 19) * 0.5 / np.sqrt(19) for sign in (-1, 1))
    assert abstention(alike) == f"50.0 % of 80 verdicts [{low:.1f}, {high:.1f}] over 20 logs"
    # Four times as many verdicts, and no more is known.
    single = [log(cell["judged"]["0"]["verdict"], "left out") for cell in alike]
    assert abstention(single) == f"50.0 % of 20 verdicts [{low:.1f}, {high:.1f}] over 20 logs"
    assert abstention([log("yes")] * 20) == "0.0 % of 20 verdicts, in 0 of 20 logs [0.0, 16.8]"
    assert abstention([log("no")] * 19 + [log("yes", "no")]).endswith(", 100.0] over 20 logs")
    assert abstention([log("no", "yes")]) == "50.0 % of 2 verdicts, one log"
    assert abstention([log("left out")] * 3) == "there is no such verdict"


def test_hopper_steps_as_gymnasium_does():
    played = Hoppers(3)
    random = np.random.default_rng(3)
    seeds = np.random.default_rng(3).integers(2**31, size=3).tolist()
    seen = played.reset(random)
    envs = [gym.make("Hopper-v5", max_episode_steps=MOST_STEPS) for _ in seeds]
    np.testing.assert_array_equal(seen, [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    live = np.ones(3, dtype=bool)
    while live.any():
        actions = 0.8 * random.standard_normal((3, 3))
        seen, rewards, over = played.step(actions)
        for row in np.flatnonzero(live):
            after, reward, terminated, truncated, _ = envs[row].step(np.clip(actions[row], -1, 1))
            np.testing.assert_allclose(seen[row], after, atol=1e-9)
            assert rewards[row] == pytest.approx(reward)
            assert over[row] == (terminated or truncated)
        live &= ~over
    for env in envs:
        env.close()


def test_logs_of_vectors_hold_the_density_of_each_action():
    task = TASKS["hopper"]
    act = behaviors_of(task)["exploring"]
    data = task.record(act, 20, np.random.default_rng(4))
    observations = np.asarray(data.observations)
    parameters = act(observations, observations)
    densities = stats.norm.pdf(np.asarray(data.actions), parameters[:, :3], parameters[:, 3:]).prod(1)
    np.testing.assert_allclose(np.asarray(data.columns[DRAWN_WITH]).ravel(), densities, rtol=1e-4)
    # Drawn with that spread around these means.
    places = (np.asarray(data.actions) - parameters[:, :3]) / parameters[:, 3:]
    assert places.std() == pytest.approx(1, abs=0.1)
    assert abs(places.mean()) < 0.1


def test_logs_hold_one_episode_per_slot_and_the_probability_of_each_action():
    task = TASKS["cartpole"]
    act = behaviors_of(task)["usual"]
    data = task.record(act, 50, np.random.default_rng(1))
    assert len(data) == 50
    assert len(set(data.lengths.tolist())) > 5
    # A pole that has fallen is out of its range one step later, and no later observation is of another episode.
    assert (np.abs(data.observations[:, 2]) < 0.21).all()
    assert (np.abs(data.observations[data.offsets[:-1]]) <= 0.05).all()
    observations = np.asarray(data.observations)
    first = np.repeat(observations[data.offsets[:-1]], data.lengths, axis=0)
    shares = act(observations, first)[np.arange(data.num_steps), np.asarray(data.actions)]
    np.testing.assert_allclose(data.columns[DRAWN_WITH], shares, atol=1e-6)
    # Actions are drawn with these probabilities: those of 0.65 are taken in that share of steps.
    assert set(np.round(shares, 3).tolist()) == {0.35, 0.65}
    assert (shares > 0.5).mean() == pytest.approx(0.65, abs=0.06)


def test_the_turn_in_the_maze_follows_the_cue_of_the_first_step():
    task = TASKS["t-maze"]
    data = task.record(task.best, 20, np.random.default_rng(2))
    cues = data.observations[data.offsets[:-1], 0]
    assert set(cues.tolist()) == {1.0, -1.0}
    assert (data.rewards[data.offsets[1:] - 1] == 1).all()


@pytest.mark.parametrize(("name", "times"), [("t-maze", 2), ("cartpole", 2), ("key-to-door", 1), ("hopper", 1)])
def test_ten_seeds_judge_every_policy_and_logs_of_each_size_judge_policies_of_every_kind(name, times):
    experiment = JudgeEnvironments()
    setup = Setup(quick=False, seeds=10, output=Path())
    recipe = experiment.recipe(setup)
    names = list(policies_of(TASKS[name]))
    cells = [cell for cell in experiment.cells(setup) if cell["task"] == name]
    judged = [each for cell in cells for each in _chosen(names, cell, recipe)]
    assert Counter(judged) == dict.fromkeys(names, times)
    for size in recipe["episodes"]:
        chosen = [each for cell in pick(cells, num_episodes=size) for each in _chosen(names, cell, recipe)]
        assert {each.split("-")[0] for each in chosen} == {"best", "worst", "third"}
        assert {cell["behavior"] for cell in pick(cells, num_episodes=size)} == {"usual", "exploring"}
