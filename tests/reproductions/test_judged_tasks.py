"""Claims about the tasks in which the judge's networks are tried: values are those of the episodes that are played."""

import numpy as np
import pytest

from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.judge_environments import JudgeEnvironments, _chosen
from rl_transformer.reproductions.judged_tasks import DRAWN_WITH, TASKS, behaviors_of, mixed


@pytest.mark.parametrize("name", list(TASKS))
def test_the_best_policy_earns_all_there_is_and_the_worst_next_to_nothing(name, monkeypatch):
    monkeypatch.setattr("rl_transformer.reproductions.judged_tasks._SIMULATED", 200)
    task = TASKS[name]
    most = 100 if name == "cartpole" else 1
    assert task.value(task.best) == pytest.approx(most, rel=0.01)
    assert task.value(task.worst) < 0.1 * most


@pytest.mark.parametrize("name", ["key-to-door", "t-maze"])
def test_exact_values_are_those_of_played_episodes(name):
    task = TASKS[name]
    act = mixed(behaviors_of(task)["usual"], task.worst, 0.1)
    data = task.record(act, 300, np.random.default_rng(0))
    exact = task.value(act)
    error = np.sqrt(exact * (1 - exact) / 300)
    assert abs(data.rewards.sum() / 300 - exact) < 3 * error


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


def test_every_policy_is_judged_by_some_log():
    experiment = JudgeEnvironments()
    setup = Setup(quick=False, seeds=5, output=None)
    recipe = experiment.recipe(setup)
    names = [f"policy-{number}" for number in range(20)]
    for task in TASKS:
        cells = [cell for cell in experiment.cells(setup) if cell["task"] == task]
        judged = [name for cell in cells for name in _chosen(names, cell, recipe)]
        assert set(judged) == set(names)
