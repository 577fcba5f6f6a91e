"""A head that predicts one action vector and is trained by squared error, as in the paper's Gym experiments.

Shapes: *B any leading axes, E hidden_size, A length of an action vector.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import vector_embedding, vector_readout
from rl_transformer.models.heads.interface import no_entropy
from rl_transformer.runtime.shapes import Bool, Float


class ContinuousHead(nn.Sequential):
    """Predicts the action itself: its parameters are the action."""

    space_kinds: ClassVar[tuple[str, ...]] = ("box",)
    can_sample: ClassVar[bool] = False
    has_entropy: ClassVar[bool] = False
    num_allowed = 0

    def __init__(self, config: DecisionTransformerConfig) -> None:
        # A tied head is applied by the model, which has the embedding. The layer remains, so that the tanh keeps the
        # index 1 that its name has in transformers' files.
        linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        super().__init__(linear, *([nn.Tanh()] if config.action_tanh else []))
        self.num_uniforms = config.act_dim

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the embedding of action vectors: (*B, A) -> (*B, E)."""
        return vector_embedding(config, config.act_dim)

    def loss(self, parameters: Float[Tensor, "*B A"], actions: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Return the mean squared error of each action."""
        return (parameters - actions).square().mean(-1)

    def error(self, parameters: Float[Tensor, "*B A"], actions: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Return the mean absolute error of each action."""
        return (parameters - actions).abs().mean(-1)

    def greedy(
        self, parameters: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B M"] | None = None
    ) -> Float[Tensor, "*B A"]:
        """Return the predicted action."""
        return parameters

    def sample(
        self,
        parameters: Float[Tensor, "*B A"],
        uniforms: Float[Tensor, "*B A"],
        allowed: Bool[Tensor, "*B M"] | None = None,
    ) -> Float[Tensor, "*B A"]:
        """Return the predicted action, because this head has no distribution to draw from."""
        return parameters

    def entropy(self, parameters: Float[Tensor, "*B A"], normals: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Raise an error: a point prediction has no entropy."""
        raise no_entropy("continuous")
