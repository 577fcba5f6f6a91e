"""One action vector, trained by squared error: the head of the paper's Gym experiments."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import vector_embedding, vector_readout
from rl_transformer.models.heads.interface import no_entropy


class ContinuousHead(nn.Sequential):
    """Predicts the action itself."""

    space_kinds: ClassVar[tuple[str, ...]] = ("box",)
    can_sample: ClassVar[bool] = False
    has_entropy: ClassVar[bool] = False
    num_allowed = 0

    def __init__(self, config: DecisionTransformerConfig) -> None:
        linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        super().__init__(linear, *([nn.Tanh()] if config.action_tanh else []))
        self.num_uniforms = config.act_dim

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the embedding of action vectors: (..., A) -> (..., E)."""
        return vector_embedding(config, config.act_dim)

    def loss(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the mean squared error of each step: (..., A), (..., A) -> (...)."""
        return (parameters - actions).square().mean(-1)

    def error(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return the mean absolute error of each step: (...)."""
        return (parameters - actions).abs().mean(-1)

    def greedy(self, parameters: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the predicted action: (..., A)."""
        return parameters

    def sample(self, parameters: Tensor, uniforms: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return the predicted action: this head has no distribution to draw from."""
        return parameters

    def entropy(self, parameters: Tensor, normals: Tensor) -> Tensor:
        """Raise: a point prediction has no entropy."""
        raise no_entropy("continuous")
