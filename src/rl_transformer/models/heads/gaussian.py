"""A head with a tanh-squashed Gaussian, trained by likelihood, as in Online Decision Transformer (Zheng et al. 2022).

Shapes: *B any leading axes, E hidden_size, A length of an action vector, F = 2 A parameters: the means, then what
determines the standard deviations.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import vector_embedding, vector_readout
from rl_transformer.runtime.shapes import Bool, Float

# The largest |action| whose inverse tanh is still accurate in float32: logged actions often lie exactly on
# the bound, where the density of a squashed Gaussian is infinite.
_LARGEST_ACTION = 1 - 1e-6
# Without a lower limit the likelihood of repeated actions grows without end; beyond the upper one tanh saturates, and
# most of the probability lies on the bounds.
_LOG_STD_RANGE = (-5.0, 2.0)


class GaussianHead(nn.Module):
    """A Gaussian with a diagonal covariance, squashed into (-1, 1) by a tanh."""

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
        """Return the embedding of action vectors: (*B, A) -> (*B, E)."""
        return vector_embedding(config, config.act_dim)

    def forward(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B F"]:
        return self.linear(hidden)

    @staticmethod
    def _mean_and_log_std(
        parameters: Float[Tensor, "*B F"],
    ) -> tuple[Float[Tensor, "*B A"], Float[Tensor, "*B A"]]:
        mean, raw = parameters.float().chunk(2, dim=-1)
        low, high = _LOG_STD_RANGE
        # Squashed rather than clamped into the range: a clamp has no gradient that leads back from outside of it.
        return mean, low + 0.5 * (high - low) * (torch.tanh(raw) + 1)

    def loss(self, parameters: Float[Tensor, "*B F"], actions: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Return the negative log-likelihood of each action, summed over its dimensions."""
        return -self.log_densities(parameters, actions).sum(-1)

    def log_densities(self, parameters: Float[Tensor, "*B F"], actions: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
        """Return the log density of every dimension of each action."""
        mean, log_std = self._mean_and_log_std(parameters)
        actions = actions.float().clamp(-_LARGEST_ACTION, _LARGEST_ACTION)
        before_tanh = torch.atanh(actions)
        scaled = (before_tanh - mean) * torch.exp(-log_std)
        gaussian = -0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)
        # Change of variables: the density of the action is the Gaussian's, divided by the slope of the tanh.
        return gaussian - _log_tanh_slope(before_tanh)

    def interval_probabilities(
        self, parameters: Float[Tensor, "*B F"], low: Float[Tensor, "*B A"], high: Float[Tensor, "*B A"]
    ) -> Float[Tensor, "*B A"]:
        """Return for every dimension the probability of an action between ``low`` and ``high``; 1 and beyond is no limit."""
        mean, log_std = self._mean_and_log_std(parameters.double())
        edges = [torch.atanh(edge.double().clamp(-1, 1)) for edge in (low, high)]  # infinite at the bounds
        below, above = (torch.special.ndtr((edge - mean) * torch.exp(-log_std)) for edge in edges)
        return above - below

    def entropy(self, parameters: Float[Tensor, "*B F"], normals: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Estimate the entropy of each distribution from one draw of standard normal numbers."""
        mean, log_std = self._mean_and_log_std(parameters)
        # A squashed Gaussian has no entropy in closed form. The draw is a function of the parameters, so that the
        # estimate has a gradient.
        drawn = mean + torch.exp(log_std) * normals
        gaussian = 0.5 * normals.square() + log_std + 0.5 * math.log(2 * math.pi)
        return (gaussian + _log_tanh_slope(drawn)).sum(-1)

    def error(self, parameters: Float[Tensor, "*B F"], actions: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Return the mean absolute error of the greedy action."""
        return (self.greedy(parameters) - actions).abs().mean(-1)

    def greedy(
        self, parameters: Float[Tensor, "*B F"], allowed: Bool[Tensor, "*B M"] | None = None
    ) -> Float[Tensor, "*B A"]:
        """Return the squashed mean."""
        return torch.tanh(self._mean_and_log_std(parameters)[0])

    def sample(
        self,
        parameters: Float[Tensor, "*B F"],
        uniforms: Float[Tensor, "*B A"],
        allowed: Bool[Tensor, "*B M"] | None = None,
    ) -> Float[Tensor, "*B A"]:
        """Draw an action by inverting the Gaussian's cumulative distribution at ``uniforms``."""
        mean, log_std = self._mean_and_log_std(parameters)
        # The inverse is infinite at 0, which a uniform number can be, and at 1.
        normals = torch.special.ndtri(uniforms.double().clamp(1e-12, 1 - 1e-12)).float()
        return torch.tanh(mean + torch.exp(log_std) * normals)


def _log_tanh_slope(x: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
    """Return log(1 - tanh(x)^2), the logarithm of the slope of tanh at x."""
    # Written this way it stays accurate for large |x|, where 1 - tanh(x)^2 is rounded to zero.
    return 2 * (math.log(2) - x - F.softplus(-2 * x))
