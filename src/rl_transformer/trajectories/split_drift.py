"""Measure how well episodes of two data sets can be told apart, by models that have not seen the episode.

A two-sample test by a classifier (Lopez-Paz and Oquab, 2017): scores come from folds that do not hold the episode, and the
mean scores of episodes, which are independent of each other, are compared by the test of Mann and Whitney.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rl_transformer.trajectories.explained_variance import categories
from rl_transformer.trajectories.sampled_steps import SampledSteps

_FOLDS = 4
_RIDGE = 1e-2
# Products of more numbers than this would be too many to fit.
_MOST_PRODUCTS = 24


@dataclass(frozen=True)
class Apart:
    """How well episodes are told apart."""

    area: float
    """Area under the curve: 0.5 if not at all, 1 if always."""
    chance: float
    """Probability of such an area if there is no difference."""


def episodes_apart(train: SampledSteps, test: SampledSteps) -> Apart:
    """Return how well the observations of episodes tell to which data they belong."""
    inputs = _standard(np.concatenate([train.observations, test.observations]))
    return _apart(_with_products(inputs), *_labels(train, test))


def behavior_drift(train: SampledSteps, test: SampledSteps) -> Apart:
    """Return how well actions tell to which data their episode belongs, beyond what their observations say of them."""
    observations = _standard(np.concatenate([train.observations, test.observations]))
    if train.is_continuous:
        actions = _standard(np.concatenate([train.actions, test.actions]).astype(np.float64))
    else:
        actions = categories(np.concatenate([train.actions, test.actions]))
    is_test, episode = _labels(train, test)
    inputs = _with_products(observations)
    residual = np.empty_like(actions)
    fold = _folds(episode)
    for index in range(_FOLDS):
        # One model of the behavior for both: what it misses is compared.
        weights = _fit(inputs[fold != index], actions[fold != index])
        residual[fold == index] = actions[fold == index] - inputs[fold == index] @ weights
    few = observations[:, : max(_MOST_PRODUCTS * 4 // max(residual.shape[1], 1), 1)]
    products = (residual[:, :, None] * few[:, None, :]).reshape(len(residual), -1)
    return _apart(np.column_stack([residual, np.square(residual), products, np.ones(len(residual))]), is_test, episode)


def _labels(train: SampledSteps, test: SampledSteps) -> tuple[np.ndarray, np.ndarray]:
    """Return for every step whether it is of the test data, and the number of its episode among all."""
    is_test = np.repeat([False, True], [train.num_steps, test.num_steps])
    return is_test, np.concatenate([train.episode, test.episode + len(train.episodes)])


def _apart(inputs: np.ndarray, is_test: np.ndarray, episode: np.ndarray) -> Apart:
    fold = _folds(episode)
    # Both parts count the same, however many steps each has.
    weight = np.where(is_test, 0.5 / max(is_test.mean(), 1e-9), 0.5 / max(1 - is_test.mean(), 1e-9))
    scores = np.empty(len(inputs))
    for index in range(_FOLDS):
        rest = fold != index
        root = np.sqrt(weight[rest])[:, None]
        fitted = _fit(inputs[rest] * root, (is_test[rest] * 2.0 - 1)[:, None] * root)
        scores[~rest] = (inputs[~rest] @ fitted)[:, 0]
    counts = np.bincount(episode)
    means = np.bincount(episode, scores) / counts
    of_test = np.bincount(episode, is_test) > 0
    result = stats.mannwhitneyu(means[of_test], means[~of_test], alternative="greater")
    area = float(result.statistic) / (int(of_test.sum()) * int((~of_test).sum()))
    return Apart(area, float(result.pvalue))


def _folds(episode: np.ndarray) -> np.ndarray:
    """Return the fold of every step; all steps of an episode are in one."""
    order = np.random.default_rng(0).permutation(int(episode.max()) + 1)
    return order[episode] % _FOLDS


def _fit(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the weights of a ridge regression."""
    squares = inputs.T @ inputs
    return np.linalg.solve(squares + _RIDGE * len(inputs) * np.eye(len(squares)), inputs.T @ targets)


def _standard(values: np.ndarray) -> np.ndarray:
    std = values.std(axis=0)
    # Values far away would decide everything.
    return np.clip((values - values.mean(axis=0)) / np.where(std > 0, std, 1.0), -5, 5)


def _with_products(values: np.ndarray) -> np.ndarray:
    """Return values, a constant, and the products of pairs of the first of them."""
    few = values[:, :_MOST_PRODUCTS]
    first, second = np.triu_indices(few.shape[1])
    return np.column_stack([values, few[:, first] * few[:, second], np.ones(len(values))])
