"""The base class of a policy's network, which is trained on windows and predicts actions.

Shapes: B windows, T timesteps, C numbers of all conditions, F parameters of the action head; *state and *action are the
axes of one observation and of one action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.heads.interface import ActionHead
from rl_transformer.runtime.shapes import Float, Int, Shaped


class PolicyModel(nn.Module, ABC):
    """A network that predicts actions from windows."""

    config: DecisionTransformerConfig
    predict_action: ActionHead

    @abstractmethod
    def predict_actions(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        conditions: Float[Tensor, "B T C"],
        timesteps: Int[Tensor, "B T"],
        *,
        at: int | None = None,
    ) -> Float[Tensor, "B T F"] | Float[Tensor, "B F"]:
        """Return the action head's parameters for every timestep, or only for timestep ``at`` of every window.

        Args:
            states: Normalized vectors, or uint8 images.
            actions: Vectors in [-1, 1]; with a discrete head indices, with a multi-discrete one an index per part.
            conditions: Scaled.
            timesteps: Below max_ep_len.
            at: The only timestep to predict, because acting needs no other. None predicts all of them.
        """


def num_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
