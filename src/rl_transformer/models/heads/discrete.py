"""One logit per action, trained by cross-entropy: the head of the paper's Atari and Key-to-Door experiments."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import DiscreteActionEmbedding, vector_readout
from rl_transformer.models.heads.interface import no_entropy


class DiscreteHead(nn.Module):
    """A categorical distribution over A actions."""

    space_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    can_sample: ClassVar[bool] = True
    has_entropy: ClassVar[bool] = False
    num_uniforms = 1

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        self.num_allowed = config.act_dim

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the table of action tokens: (...) -> (..., E)."""
        return DiscreteActionEmbedding(config.act_dim, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the cross-entropy of each step: (..., A), (...) -> (...)."""
        flat = F.cross_entropy(parameters.flatten(0, -2).float(), actions.flatten(), reduction="none")
        return flat.view(actions.shape)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return 1 where the most likely action is not the logged one, else 0: (...)."""
        return (parameters.argmax(-1) != actions).float()

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the most likely action among the ``allowed`` (..., A) ones: (...)."""
        return mask_logits(parameters, allowed).argmax(-1)

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw an action by inverting the cumulative distribution at ``uniforms`` (..., 1): (...)."""
        return sample_categorical(mask_logits(parameters, allowed), uniforms)

    def entropy(self, parameters: Tensor, normals: Tensor) -> Tensor:
        """Raise: no entropy bonus is built for this head."""
        raise no_entropy("discrete")


def mask_logits(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Return logits with minus infinity where ``allowed`` is False."""
    return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)


def sample_categorical(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw indices from logits (..., A) by inverting the cumulative distribution at ``uniforms`` (..., 1): (...)."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniforms.double() * cumulative[..., -1:], right=True)
    return drawn.squeeze(-1).clamp_(max=logits.shape[-1] - 1)
