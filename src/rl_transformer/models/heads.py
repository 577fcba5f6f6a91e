"""Action heads: from a hidden state to an action, and how wrong it was.

Every head maps (..., hidden_size) to parameters (..., size), turns parameters and the action taken
into a loss a step, and parameters into an action. Actions are in the model's units: whole numbers,
or vectors in [-1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig

# The largest |action| whose inverse tanh is still trusted in float32: logged actions often sit on
# the bound exactly, where the density of a squashed Gaussian is infinite.
_LARGEST_ACTION = 1 - 1e-6
_LOG_STD_RANGE = (-5.0, 2.0)


class ContinuousHead(nn.Sequential):
    """One action vector, trained by squared error (the paper's Gym experiments)."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        linear = nn.Identity() if config.tie_action_head else _readout(config, config.act_dim)
        super().__init__(linear, *([nn.Tanh()] if config.action_tanh else []))

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the mean squared error of each step: (..., A), (..., A) -> (...)."""
        return (parameters - actions).square().mean(-1)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return how far the greedy action is off, as a mean absolute difference (...)."""
        return (parameters - actions).abs().mean(-1)

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the action itself."""
        return parameters

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the action itself: this head has no distribution to draw from."""
        return parameters


class DiscreteHead(nn.Module):
    """A score for each action, trained by cross-entropy (the paper's Atari and Key-to-Door)."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Identity() if config.tie_action_head else _readout(config, config.act_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the cross-entropy of each step: (..., A), (...) -> (...)."""
        flat = F.cross_entropy(parameters.flatten(0, -2).float(), actions.flatten(), reduction="none")
        return flat.view(actions.shape)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return 1 where the likeliest action is not the one taken, else 0."""
        return (parameters.argmax(-1) != actions).float()

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the likeliest action among the ``allowed`` (..., A) ones."""
        return _only(parameters, allowed).argmax(-1)

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw an action by the inverse of its distribution function at ``uniforms`` (..., 1)."""
        cumulative = _only(parameters, allowed).double().softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniforms.double() * cumulative[..., -1:], right=True)
        return drawn.squeeze(-1).clamp_(max=parameters.shape[-1] - 1)


class GaussianHead(nn.Module):
    """A tanh-squashed Gaussian, trained by likelihood (as in Online Decision Transformer)."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.linear = _readout(config, 2 * config.act_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)

    @staticmethod
    def _mean_and_log_std(parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = parameters.float().chunk(2, dim=-1)
        low, high = _LOG_STD_RANGE
        return mean, low + 0.5 * (high - low) * (torch.tanh(raw) + 1)

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the negative log-likelihood of each step, summed over the action's dimensions."""
        mean, log_std = self._mean_and_log_std(parameters)
        actions = actions.float().clamp(-_LARGEST_ACTION, _LARGEST_ACTION)
        before_tanh = torch.atanh(actions)
        scaled = (before_tanh - mean) * torch.exp(-log_std)
        gaussian = -0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)
        return -(gaussian - _log_tanh_slope(before_tanh)).sum(-1)

    def entropy(self, parameters: Tensor, normals: Tensor) -> Tensor:
        """Estimate the entropy of each step from one draw: (..., 2A), (..., A) -> (...)."""
        mean, log_std = self._mean_and_log_std(parameters)
        drawn = mean + torch.exp(log_std) * normals
        gaussian = 0.5 * normals.square() + log_std + 0.5 * math.log(2 * math.pi)
        return (gaussian + _log_tanh_slope(drawn)).sum(-1)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return how far the greedy action is off, as a mean absolute difference (...)."""
        return (self.greedy(parameters) - actions).abs().mean(-1)

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the squashed mean."""
        return torch.tanh(self._mean_and_log_std(parameters)[0])

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw an action by the inverse of the Gaussian's distribution at ``uniforms`` (..., A)."""
        mean, log_std = self._mean_and_log_std(parameters)
        normals = torch.special.ndtri(uniforms.double().clamp(1e-12, 1 - 1e-12)).float()
        return torch.tanh(mean + torch.exp(log_std) * normals)


ActionHead = ContinuousHead | DiscreteHead | GaussianHead
_HEADS: dict[str, type[ActionHead]] = {
    "continuous": ContinuousHead,
    "discrete": DiscreteHead,
    "gaussian": GaussianHead,
}


def make_action_head(config: DecisionTransformerConfig) -> ActionHead:
    """Return the head that ``config.action_head`` names."""
    return _HEADS[config.action_head](config)


def _readout(config: DecisionTransformerConfig, outputs: int) -> nn.Module:
    width = config.hidden_size
    if config.embedding == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))


def _log_tanh_slope(x: Tensor) -> Tensor:
    """Return log(1 - tanh(x)^2), stable for large |x|."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def _only(scores: Tensor, allowed: Tensor | None) -> Tensor:
    return scores if allowed is None else scores.masked_fill(~allowed, -math.inf)
