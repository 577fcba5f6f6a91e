"""A head with one logit per action, trained by cross-entropy, as in the paper's Atari and Key-to-Door experiments.

Shapes: *B any leading axes, E hidden_size, A number of actions.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.embeddings import DiscreteActionEmbedding, vector_readout
from rl_transformer.models.heads.interface import no_entropy
from rl_transformer.runtime.shapes import Bool, Float, Int


class DiscreteHead(nn.Module):
    """A categorical distribution over A actions."""

    space_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    can_sample: ClassVar[bool] = True
    has_entropy: ClassVar[bool] = False
    num_uniforms = 1

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        # A tied head is applied by the model, which has the embedding.
        self.linear = nn.Identity() if config.tie_action_head else vector_readout(config, config.act_dim)
        self.num_allowed = config.act_dim

    @staticmethod
    def make_embedding(config: DecisionTransformerConfig) -> nn.Module:
        """Return the table of action tokens: (*B) -> (*B, E)."""
        return DiscreteActionEmbedding(config.act_dim, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B A"]:
        return self.linear(hidden)

    def loss(self, parameters: Float[Tensor, "*B A"], actions: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return the cross-entropy of each action."""
        # In float32 also under autocast: the sum of exponentials would lose small probabilities in bfloat16.
        flat = F.cross_entropy(parameters.flatten(0, -2).float(), actions.flatten(), reduction="none")
        return flat.view(actions.shape)

    def error(self, parameters: Float[Tensor, "*B A"], actions: Int[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Return 1 where the most likely action is not the logged one, and 0 elsewhere."""
        return (parameters.argmax(-1) != actions).float()

    def greedy(
        self, parameters: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B A"] | None = None
    ) -> Int[Tensor, "*B"]:
        """Return the most likely action among the ``allowed`` ones."""
        return mask_logits(parameters, allowed).argmax(-1)

    def sample(
        self,
        parameters: Float[Tensor, "*B A"],
        uniforms: Float[Tensor, "*B 1"],
        allowed: Bool[Tensor, "*B A"] | None = None,
    ) -> Int[Tensor, "*B"]:
        """Draw an action by inverting the cumulative distribution at ``uniforms``."""
        return sample_categorical(mask_logits(parameters, allowed), uniforms)

    def probabilities(
        self, parameters: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B A"] | None = None
    ) -> tuple[Float[Tensor, "*B A"], ...]:
        """Return the distribution from which `sample` draws."""
        return (mask_logits(parameters, allowed).double().softmax(-1),)

    def entropy(self, parameters: Float[Tensor, "*B A"], normals: Float[Tensor, "*B A"]) -> Float[Tensor, "*B"]:
        """Raise an error: this head has no entropy bonus."""
        raise no_entropy("discrete")


def mask_logits(logits: Float[Tensor, "*B A"], allowed: Bool[Tensor, "*B A"] | None) -> Float[Tensor, "*B A"]:
    """Return logits with minus infinity where ``allowed`` is False."""
    return logits if allowed is None else logits.masked_fill(~allowed, -math.inf)


def sample_categorical(logits: Float[Tensor, "*B A"], uniforms: Float[Tensor, "*B 1"]) -> Int[Tensor, "*B"]:
    """Draw one index per distribution by inverting its cumulative distribution at ``uniforms``."""
    # The caller brings the random numbers, one stream per session, so that a draw depends on nobody else's. In float64
    # the sum is exact enough that each index keeps its own probability.
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # The last sum may differ from 1 by rounding, so the uniform number is scaled to it. Counting the sums up to it skips
    # indices of probability zero, and the clamp catches a product that was rounded up to the last sum itself.
    drawn = (cumulative <= uniforms.double() * cumulative[..., -1:]).sum(-1)
    return drawn.clamp(max=logits.shape[-1] - 1)
