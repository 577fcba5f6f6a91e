"""What an episode's first observation says about its return, and how much of a return is luck: linear models.

Shapes: R rows, V values with which targets are compared, D features of an observation, Q features.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from rl_transformer.conditions import ReturnToGo
from rl_transformer.runtime.shapes import Float64, Int, Shaped
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.returns import rewards_ahead
from rl_transformer.windows.normalization import Normalizer

_MAX_ROWS = 20_000  # rows of a regression
_MAX_NUMBERS = 2**22
_MAX_PRODUCTS = 512  # products of observation and action features
_FOLDS = 5
_PENALTIES = (0.01, 0.1, 1.0)
FARTHEST = 5.0  # standard deviations: beyond, a line says nothing
_LEAST_EXPLAINED = 0.01


def has_features(dataset: TrajectoryDataset) -> bool:
    """Return True if observations are vectors, which a linear model can read."""
    space = dataset.spec.observation_space
    return not space.has_image and dataset.observations.shape[1:] == (space.flat_dim,) and space.flat_dim > 0


def steps_of(dataset: TrajectoryDataset, episodes: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """Return the rows of some episodes, in the order of the data."""
    chosen = np.zeros(dataset.num_trajectories, dtype=bool)
    chosen[episodes] = True
    return np.flatnonzero(np.repeat(chosen, dataset.lengths))


def _evenly(count: int, most: int) -> Int[np.ndarray, "_"]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _states(
    dataset: TrajectoryDataset, normalizer: Normalizer, rows: Int[np.ndarray, "R"]
) -> Float64[np.ndarray, "R D"]:
    """Return normalized observations, bounded as for a prediction."""
    mean = normalizer.observation_mean
    device = torch.device("cpu") if mean is None else mean.device
    recorded = torch.from_numpy(np.ascontiguousarray(dataset.observations[rows])).to(device)
    return np.clip(normalizer.normalize(recorded).double().cpu().numpy(), -FARTHEST, FARTHEST)


def _folds(dataset: TrajectoryDataset, rows: Int[np.ndarray, "R"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the fold and the group of each row: its episode, or a stretch of the data if there are few episodes."""
    groups = np.searchsorted(dataset.offsets, rows, side="right") - 1
    if len(np.unique(groups)) < 2 * _FOLDS:
        groups = np.arange(len(rows)) * (4 * _FOLDS) // len(rows)
    order = np.unique(groups, return_inverse=True)[1]
    return order % _FOLDS, order


def _ridge(
    x: Float64[np.ndarray, "R D"], y: Float64[np.ndarray, "R"], penalty: float
) -> tuple[Float64[np.ndarray, "D"], float]:
    """Return coefficients and intercept of a ridge regression; the penalty is in units of the variance of a feature."""
    center = x.mean(axis=0)
    spread = x - center
    square = spread.T @ spread / len(x) + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(square, spread.T @ (y - y.mean()) / len(x))
    return weights, float(y.mean() - center @ weights)


def _cross_fitted(
    x: Float64[np.ndarray, "R D"], y: Float64[np.ndarray, "R"], folds: np.ndarray
) -> tuple[Float64[np.ndarray, "R"], float]:
    """Return predictions of models that did not learn from the row, and the penalty with which they are best."""
    results = []
    for penalty in _PENALTIES:
        predicted = np.empty(len(y))
        for fold in np.unique(folds):
            weights, intercept = _ridge(x[folds != fold], y[folds != fold], penalty)
            predicted[folds == fold] = x[folds == fold] @ weights + intercept
        results.append((float(((y - predicted) ** 2).mean()), penalty, predicted))
    _, penalty, predicted = min(results, key=lambda result: result[0])
    return predicted, penalty


def fit_starts(
    dataset: TrajectoryDataset, normalizer: Normalizer, rows: Int[np.ndarray, "V"], values: Float64[np.ndarray, "V"]
) -> tuple[Float64[np.ndarray, "_"], float, Float64[np.ndarray, "_"]]:
    """Return coefficients, intercept and residuals; no coefficients if starts do not explain the returns of others."""
    mean = float(values.mean())
    nothing = (np.zeros(0), mean, values - mean)
    if not has_features(dataset) or len(values) < 4 * _FOLDS:
        return nothing
    chosen = _evenly(len(rows), min(_MAX_ROWS, _MAX_NUMBERS // dataset.observations.shape[1]))
    x = _states(dataset, normalizer, rows[chosen])
    y = values[chosen]
    folds, groups = _folds(dataset, rows[chosen])
    predicted, penalty = _cross_fitted(x, y, folds)
    without = np.array([y[folds != fold].mean() for fold in range(_FOLDS)])[folds]
    gains = (y - without) ** 2 - (y - predicted) ** 2
    by_group = np.bincount(groups, gains) / np.bincount(groups)
    error = by_group.std(ddof=1) / math.sqrt(len(by_group))
    explained = gains.mean() / max(float(((y - without) ** 2).mean()), 1e-300)
    if explained < _LEAST_EXPLAINED or by_group.mean() < 2 * error:
        return nothing
    weights, intercept = _ridge(x, y, penalty)
    return weights, intercept, y - predicted


def luck_variance(
    dataset: TrajectoryDataset, returns: ReturnToGo, episodes: Int[np.ndarray, "_"], normalizer: Normalizer
) -> float:
    """Return the variance of a return that comes from rewards which a linear model of observation and action misses.

    What is missed is taken as independent from step to step. Zero for images, of which a linear model sees nothing.
    """
    if not has_features(dataset):
        return 0.0
    rows = steps_of(dataset, episodes)
    rows = rows[_evenly(len(rows), min(_MAX_ROWS, _MAX_NUMBERS // (4 * dataset.observations.shape[1])))]
    if len(rows) < 4 * _FOLDS:
        return 0.0
    rewards = returns.clip_rewards(dataset.rewards[rows])
    x = _with_actions(dataset, normalizer, rows, _states(dataset, normalizer, rows))
    predicted, _ = _cross_fitted(x, rewards, _folds(dataset, rows)[0])
    missed = min(float(((rewards - predicted) ** 2).mean()), float(rewards.var()))
    counted = returns.counted
    weights = rewards_ahead(
        np.ones(dataset.num_steps), dataset.offsets, steps=counted.steps, discount=counted.discount**2
    )
    return missed * float(returns.select_comparable(weights, dataset.offsets, episodes).mean())


def _with_actions(
    dataset: TrajectoryDataset, normalizer: Normalizer, rows: Int[np.ndarray, "R"], states: Float64[np.ndarray, "R D"]
) -> Float64[np.ndarray, "R Q"]:
    """Return features of observation and action, with their products if these are few."""
    space = dataset.spec.action_space
    recorded = np.ascontiguousarray(dataset.actions[rows])
    if space.is_continuous:
        actions = _continuous(normalizer, recorded)
    else:
        sizes = space.nvec or (space.n,)
        parts = recorded.reshape(len(rows), -1)
        actions = np.concatenate([np.eye(size)[parts[:, i]] for i, size in enumerate(sizes)], axis=1)
    features = [states, actions]
    if states.shape[1] * actions.shape[1] <= _MAX_PRODUCTS:
        features.append((states[:, :, None] * actions[:, None, :]).reshape(len(rows), -1))
    return np.concatenate(features, axis=1)


def _continuous(normalizer: Normalizer, recorded: Shaped[np.ndarray, "R _"]) -> Float64[np.ndarray, "R Q"]:
    """Return actions in the model's units and their squares: costs of actions are often quadratic."""
    center = normalizer.action_center
    device = torch.device("cpu") if center is None else center.device
    actions = normalizer.to_model_actions(torch.from_numpy(recorded).to(device)).double().cpu().numpy()
    return np.concatenate([actions, actions**2], axis=1)
