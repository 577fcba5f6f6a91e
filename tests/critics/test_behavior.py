"""Claims about models of the behavior: they read the past where, and only where, that says more about what is done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from rl_transformer.critics.behavior import _temperature, fit_behavior, fit_likely
from rl_transformer.critics.features import step_features
from rl_transformer.critics.networks import FitOptions
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space

OPTIONS = FitOptions(behavior_updates=250)
STEPS = 8


def log_of(repeats, episodes):
    """Episodes of noise and two actions, which are random or, in nine of ten steps, those of the step before."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(episodes):
        actions = random.integers(0, 2, STEPS)
        for step in range(1, STEPS) if repeats else ():
            actions[step] = actions[step - 1] if random.random() < 0.9 else 1 - actions[step - 1]
        observations = random.normal(size=(STEPS, 6))
        found.append({"observations": observations, "actions": actions, "rewards": np.zeros(STEPS), "terminated": True})
    return TrajectoryDataset.from_episodes(found, action_space=Space.discrete(2))


def likelihood(features):
    return lambda outputs, rows: functional.cross_entropy(outputs, features.actions[rows])


def taken(data, history):
    """Return the estimated probability of each logged action."""
    folds = np.repeat(np.arange(len(data)) % 2, STEPS)
    model = fit_behavior(step_features(data, history), folds, None, OPTIONS)
    return model.probabilities[np.arange(data.num_steps), np.asarray(data.actions)]


def test_a_behavior_that_looks_back_is_seen_to_do_so():
    later = np.arange(200 * STEPS) % STEPS > 0
    assert np.median(taken(log_of(repeats=True, episodes=200), 2)[later]) > 0.75


def test_a_behavior_that_does_not_look_back_is_not_learned_by_heart():
    # What is lost per step, against the right 0.5, multiplies over an episode: by 2 in 8 steps at 0.09.
    assert np.log(0.5 / taken(log_of(repeats=False, episodes=60), STEPS)).mean() < 0.09


def test_what_was_seen_is_read_without_what_was_drawn():
    # The first observation decides, and nine earlier actions say nothing: with them in view they are learned by heart.
    random = np.random.default_rng(1)
    found = []
    for _ in range(150):
        cue = random.choice([-1.0, 1.0])
        observations = np.zeros((10, 2))
        observations[0, 0] = cue
        observations[-1, 1] = 1
        actions = random.integers(0, 2, 10)
        actions[-1] = random.random() < 0.5 + 0.4 * cue
        found.append({"observations": observations, "actions": actions, "rewards": np.zeros(10), "terminated": True})
    data = TrajectoryDataset.from_episodes(found, action_space=Space.discrete(2))
    features = step_features(data, 10)
    rows = torch.arange(data.num_steps)
    fitted, held_out = fit_likely(features, rows, 2, likelihood(features), OPTIONS, np.random.default_rng(0))
    assert (fitted.read.history, fitted.read.past_actions) == (10, False)
    # Whole episodes are held out.
    assert len(held_out) == 150
    assert set(np.bincount((held_out // 10).numpy()).tolist()) == {0, 10}


def test_features_without_past_actions_hold_the_observations_of_all_steps():
    data = log_of(repeats=False, episodes=2)
    both = step_features(data, 3)
    seen = replace(both, past_actions=False)
    rows = torch.tensor([0, 5, STEPS])
    assert both.read(rows).shape == (3, both.width) == (3, 2 + 6 + 2 * 8)
    assert seen.read(rows).shape == (3, seen.width) == (3, 2 + 6 + 2 * 6)
    past = both.read(rows)[:, 8:].unflatten(1, (2, 8))[:, :, :6]
    torch.testing.assert_close(seen.read(rows)[:, 8:], past.flatten(1))
    # Nothing was before an episode's first step.
    assert not seen.read(rows)[[0, 2], 8:].any()


def test_a_temperature_is_moved_by_more_than_chance_only():
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(4000, 3))).float()
    draws = torch.from_numpy(random.random(4000)).float()
    actions = (logits.softmax(1).cumsum(1) < draws[:, None]).sum(1).clamp(max=2)
    assert _temperature(logits, actions) == 1
    # Twice too sure.
    assert _temperature(2 * logits, actions) == pytest.approx(2, rel=0.1)


def test_borders_between_actions_are_sharp():
    random = np.random.default_rng(0)
    found = []
    for _ in range(200):
        observations = random.uniform(-1, 1, (50, 4))
        actions = random.random(50) < np.where(observations.sum(1) > 0, 0.8, 0.2)
        found.append(
            {"observations": observations, "actions": actions.astype(int), "rewards": np.zeros(50), "terminated": True}
        )
    data = TrajectoryDataset.from_episodes(found, action_space=Space.discrete(2))
    folds = np.repeat(np.arange(200) % 2, 50)
    model = fit_behavior(step_features(data, 1), folds, None, replace(OPTIONS, behavior_updates=400))
    right = np.where(np.asarray(data.observations).sum(1) > 0, 0.8, 0.2)
    found = model.probabilities
    divergence = right * np.log(right / found[:, 1]) + (1 - right) * np.log((1 - right) / found[:, 0])
    # Of the 0.19 that one probability for all would leave.
    assert divergence.mean() < 0.02
