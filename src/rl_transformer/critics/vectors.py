"""Networks fitted to a log of action vectors: the density of the behavior's actions, and values of a judged policy's.

As in `networks`, every step is predicted by a network that was fitted without its fold.

Shapes: N steps, A numbers of an action, K drawn actions per step, B steps of a batch. Actions are in units of their logged spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from rl_transformer.critics.behavior import fit_likely
from rl_transformer.critics.features import StepFeatures
from rl_transformer.critics.networks import FitOptions, fit_critics, rows_where
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int
from rl_transformer.runtime.types import JsonObject

# Logged actions that repeat exactly would otherwise have densities without bound.
_SMALLEST_SPREAD = 1e-3
_BINS = 10


@dataclass(frozen=True)
class GaussianBehavior:
    """Estimated densities of the behavior's actions: a Gaussian with a diagonal covariance at every step."""

    means: Float64[np.ndarray, "N A"]
    spreads: Float64[np.ndarray, "N A"]
    scales: list[float]
    """Factor that was applied to each fold's standard deviations to calibrate them on unseen actions; 1: unchanged."""

    def log_densities(self, actions: Float64[np.ndarray, "N A"]) -> Float64[np.ndarray, "N"]:
        """Return the log density of one action per step."""
        return stats.norm.logpdf(actions, self.means, self.spreads).sum(1)

    def tail_probabilities(self, draws: Float64[np.ndarray, "N K A"]) -> Float64[np.ndarray, "N K"]:
        """Return how often the behavior's own actions lie as far from their mean as some others do."""
        distances = (((draws - self.means[:, None]) / self.spreads[:, None]) ** 2).sum(2)
        return stats.chi2.sf(distances, draws.shape[2])

    def calibration(self, actions: Float64[np.ndarray, "N A"]) -> JsonObject:
        """Return how evenly logged actions fill the tenths of their estimated distributions; JSON-ready.

        The error is how far a tenth's share is from 0.1 on average, times ten: 0 if the densities are right.
        """
        places = stats.norm.cdf(actions, self.means, self.spreads).ravel()
        shares = np.histogram(places, np.linspace(0, 1, _BINS + 1))[0] / len(places)
        table = [{"estimated": 1 / _BINS, "taken": float(share), "share": 1 / _BINS} for share in shares]
        return {"expected_calibration_error": float(np.abs(shares - 1 / _BINS).mean() * _BINS), "table": table}


def fit_gaussian_behavior(features: StepFeatures, folds: Int[np.ndarray, "N"], options: FitOptions) -> GaussianBehavior:
    """Fit the density of the logged action at every step by maximum likelihood, and scale its spread.

    Args:
        features: What the network reads.
        folds: Number of the fold of each step.
        options: Sizes.
    """
    size = features.num_actions
    found = torch.zeros(len(folds), 2 * size, dtype=torch.float64)
    scales = []
    for fold in np.unique(folds):
        others = rows_where(folds != fold)
        random = generator(Stream.OFFLINE_JUDGING, options.seed, int(fold), 0)

        def loss(outputs: Float[Tensor, "B F"], rows: Int[Tensor, "B"]) -> Tensor:
            mean, spread = _mean_and_spread(outputs)
            return (0.5 * ((features.actions[rows] - mean) / spread).square() + spread.log()).sum(1).mean()

        fitted, held_out = fit_likely(features, others, 2 * size, loss, options, random)
        mean, spread = _mean_and_spread(fitted.predict(held_out))
        # A network that has learned its steps by heart is too sure of others; one number corrects that.
        scale = float(((features.actions[held_out] - mean) / spread).square().mean().sqrt())
        rows = rows_where(folds == fold)
        mean, spread = _mean_and_spread(fitted.predict(rows))
        found[rows] = torch.cat([mean, spread * scale], dim=1).double()
        scales.append(scale)
    means, spreads = found.numpy()[:, :size], found.numpy()[:, size:]
    return GaussianBehavior(means, np.maximum(spreads, _SMALLEST_SPREAD), scales)


def fit_vector_values(
    features: StepFeatures,
    folds: Int[np.ndarray, "N"],
    draws: Float[np.ndarray, "N K A"],
    rewards: Float64[np.ndarray, "N"],
    is_last: Bool[np.ndarray, "N"],
    options: FitOptions,
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Return the values of each logged action and of each state if the judged policy acts afterwards.

    Args:
        features: What the network reads beside the action.
        folds: Number of the fold of each step.
        draws: Actions of the judged policy at every step; a state is worth their average.
        rewards: Rewards.
        is_last: True at the last step of its episode, after which nothing is earned.
        options: Sizes.
    """
    drawn = torch.from_numpy(np.asarray(draws, np.float32))

    def taken(network: nn.Module, rows: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        return network(torch.cat([features.read(rows), features.actions[rows]], dim=1))[:, 0]

    def offered(network: nn.Module, rows: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
        read = features.read(rows)[:, None].expand(-1, drawn.shape[1], -1)
        return network(torch.cat([read, drawn[rows]], dim=2))[..., 0]

    sizes = (features.width + features.num_actions, 1)
    weights = torch.full((1, 1), 1 / drawn.shape[1]).expand(drawn.shape[:2])
    return fit_critics(sizes, folds, rewards, is_last, options, taken, offered, weights)


def _mean_and_spread(parameters: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A"]]:
    mean, raw = parameters.chunk(2, dim=1)
    # Begins near the logged spread, and reaches from a thousandth to a thousand times it, smoothly: a clamp would have no
    # gradient that leads back.
    limit = -math.log(_SMALLEST_SPREAD)
    return mean, torch.exp(limit * torch.tanh(raw / limit))
