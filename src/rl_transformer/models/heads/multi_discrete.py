"""A head for actions of several discrete parts (gymnasium's MultiDiscrete).

The parts are independent of each other given the hidden state.

Shapes: *B any leading axes, E hidden_size, P parts, A number of values of all parts together.
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
from rl_transformer.runtime.shapes import Bool, Float, Int


class MultiDiscreteEmbedding(nn.Module):
    """An embedding of actions: the sum of one table row per part."""

    offsets: Int[Tensor, "P"]

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        # One table for all parts, because a tied action head needs their rows as one matrix.
        self.table = nn.Embedding(sum(config.action_parts), config.hidden_size)
        offsets = torch.tensor((0, *config.action_parts[:-1])).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)

    @property
    def weight(self) -> Float[Tensor, "A E"]:
        """Return the rows of all parts, one part after the other."""
        return self.table.weight

    def forward(self, actions: Int[Tensor, "*B P"]) -> Float[Tensor, "*B E"]:
        return self.table(actions.long() + self.offsets).sum(-2)


class MultiDiscreteHead(nn.Module):
    """One categorical distribution per part."""

    space_kinds: ClassVar[tuple[str, ...]] = ("multi_discrete",)
    can_sample: ClassVar[bool] = True
    has_entropy: ClassVar[bool] = False

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.parts = list(config.action_parts)
        # A tied head is applied by the model, which has the embedding.
        self.linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        self.num_uniforms = len(self.parts)
        self.num_allowed = sum(self.parts)

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the embedding of actions: (*B, P) -> (*B, E)."""
        return MultiDiscreteEmbedding(config)

    def forward(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B A"]:
        return self.linear(hidden)

    def loss(self, parameters: Float[Tensor, "*B A"], actions: Int[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        """Return the cross-entropy of each action, summed over its parts."""
        # The sum is the negative log-likelihood of the whole action, because the parts are independent.
        losses = [
            F.cross_entropy(logits.flatten(0, -2).float(), part.flatten(), reduction="none").view(part.shape)
            for logits, part in zip(self._split(parameters), actions.unbind(-1), strict=True)
        ]
        return torch.stack(losses).sum(0)

    def error(self, parameters: Float[Tensor, "*B A"], actions: Int[Tensor, "*B P"]) -> Float[Tensor, "*B"]:
        """Return the share of parts whose most likely value is not the logged one."""
        return (self.greedy(parameters) != actions).float().mean(-1)

    def greedy(
        self, parameters: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B A"] | None = None
    ) -> Int[Tensor, "*B P"]:
        """Return the most likely value of every part, among the ``allowed`` ones."""
        return torch.stack([logits.argmax(-1) for logits in self._split(mask_logits(parameters, allowed))], dim=-1)

    def sample(
        self,
        parameters: Float[Tensor, "*B A"],
        uniforms: Float[Tensor, "*B P"],
        allowed: Bool[Tensor, "*B A"] | None = None,
    ) -> Int[Tensor, "*B P"]:
        """Draw every part with its own number of ``uniforms``."""
        logits = self._split(mask_logits(parameters, allowed))
        drawn = [sample_categorical(part, uniforms[..., i : i + 1]) for i, part in enumerate(logits)]
        return torch.stack(drawn, dim=-1)

    def probabilities(
        self, parameters: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B A"] | None = None
    ) -> tuple[Float[Tensor, "*B _"], ...]:
        """Return the distributions from which `sample` draws, one per part."""
        return tuple(part.double().softmax(-1) for part in self._split(mask_logits(parameters, allowed)))

    def entropy(self, parameters: Float[Tensor, "*B A"], normals: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Raise an error: this head has no entropy bonus."""
        raise no_entropy("multi_discrete")

    def _split(self, parameters: Float[Tensor, "*B A"]) -> tuple[Float[Tensor, "*B _"], ...]:
        """Split the logits by part."""
        return parameters.split(self.parts, dim=-1)
