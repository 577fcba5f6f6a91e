"""A tanh-squashed Gaussian, trained by likelihood (as in Online Decision Transformer, Zheng et al. 2022)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import vector_embedding, vector_readout

# The largest |action| whose inverse tanh is still accurate in float32: logged actions often lie exactly on
# the bound, where the density of a squashed Gaussian is infinite.
_LARGEST_ACTION = 1 - 1e-6
_LOG_STD_RANGE = (-5.0, 2.0)


class GaussianHead(nn.Module):
    """A tanh-squashed Gaussian with a diagonal covariance."""

    space_kinds: ClassVar[tuple[str, ...]] = ("box",)
    can_sample: ClassVar[bool] = True
    has_entropy: ClassVar[bool] = True
    num_allowed = 0

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.linear = vector_readout(config, 2 * config.act_dim)
        self.num_uniforms = config.act_dim

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the embedding of action vectors: (..., A) -> (..., E)."""
        return vector_embedding(config, config.act_dim)

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
        """Return the mean absolute error of the greedy action: (...)."""
        return (self.greedy(parameters) - actions).abs().mean(-1)

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the squashed mean."""
        return torch.tanh(self._mean_and_log_std(parameters)[0])

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw an action by inverting the Gaussian's cumulative distribution at ``uniforms`` (..., A)."""
        mean, log_std = self._mean_and_log_std(parameters)
        normals = torch.special.ndtri(uniforms.double().clamp(1e-12, 1 - 1e-12)).float()
        return torch.tanh(mean + torch.exp(log_std) * normals)


def _log_tanh_slope(x: Tensor) -> Tensor:
    """Return log(1 - tanh(x)^2), stable for large |x|."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))
