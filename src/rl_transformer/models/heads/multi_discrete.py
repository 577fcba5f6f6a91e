"""Several discrete parts per action (gymnasium's MultiDiscrete), independent of each other given the hidden state.

Shapes: P parts, A the number of values of all parts together.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import vector_readout
from rl_transformer.models.heads.discrete import mask_logits, sample_categorical
from rl_transformer.models.heads.interface import no_entropy


class MultiDiscreteEmbedding(nn.Module):
    """The sum of one table entry per part: (..., P) indices -> (..., E)."""

    offsets: Tensor

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(config.action_parts), config.hidden_size)
        offsets = torch.tensor((0, *config.action_parts[:-1])).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)

    @property
    def weight(self) -> Tensor:
        """(A, E): the tables of all parts, one after the other."""
        return self.table.weight

    def forward(self, actions: Tensor) -> Tensor:
        return self.table(actions.long() + self.offsets).sum(-2)


class MultiDiscreteHead(nn.Module):
    """One categorical distribution per part; the loss is the negative log-likelihood of all parts together."""

    space_kinds: ClassVar[tuple[str, ...]] = ("multi_discrete",)
    can_sample: ClassVar[bool] = True
    has_entropy: ClassVar[bool] = False

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.parts = list(config.action_parts)
        self.linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        self.num_uniforms = len(self.parts)
        self.num_allowed = sum(self.parts)

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the sum of the parts' tables: (..., P) -> (..., E)."""
        return MultiDiscreteEmbedding(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the cross-entropy of each step, summed over parts: (..., A), (..., P) -> (...)."""
        losses = [
            F.cross_entropy(logits.flatten(0, -2).float(), part.flatten(), reduction="none").view(part.shape)
            for logits, part in zip(self._split(parameters), actions.unbind(-1), strict=True)
        ]
        return torch.stack(losses).sum(0)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the share of parts whose most likely value is not the logged one: (...)."""
        return (self.greedy(parameters) != actions).float().mean(-1)

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the most likely value of every part, among the ``allowed`` (..., A) ones: (..., P)."""
        return torch.stack([logits.argmax(-1) for logits in self._split(mask_logits(parameters, allowed))], dim=-1)

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Draw every part with its own number of ``uniforms`` (..., P): (..., P)."""
        logits = self._split(mask_logits(parameters, allowed))
        drawn = [sample_categorical(part, uniforms[..., i : i + 1]) for i, part in enumerate(logits)]
        return torch.stack(drawn, dim=-1)

    def entropy(self, parameters: Tensor, normals: Tensor) -> Tensor:
        """Raise: no entropy bonus is built for this head."""
        raise no_entropy("multi_discrete")

    def _split(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """Split (..., A) into the logits of each part."""
        return parameters.split(self.parts, dim=-1)
