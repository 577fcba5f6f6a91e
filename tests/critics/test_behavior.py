"""Claims about models of the behavior: they read the past where, and only where, that says more about what is done."""

import numpy as np

from rl_transformer.critics.behavior import fit_behavior
from rl_transformer.critics.features import step_features
from rl_transformer.critics.networks import FitOptions
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space

OPTIONS = FitOptions(hidden_size=32, behavior_updates=250, learning_rate=3e-3)
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
