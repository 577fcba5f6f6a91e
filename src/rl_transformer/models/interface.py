"""What a policy's network is: trained by windows, asked for actions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.heads.interface import ActionHead


class PolicyModel(nn.Module, ABC):
    """Base of the networks that predict actions from windows."""

    config: DecisionTransformerConfig
    predict_action: ActionHead

    @abstractmethod
    def predict_actions(
        self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor, *, at: int | None = None
    ) -> Tensor:
        """Return the action head's parameters for every timestep, or only for timestep ``at`` of every window.

        Shapes: B windows, T timesteps, C numbers of all conditions, F parameters of the head.

        Args:
            states: (B, T, state_dim), normalized; (B, T, *image_shape) uint8 for images.
            actions: (B, T, A) in [-1, 1], or (B, T) or (B, T, P) indices with a discrete head.
            conditions: (B, T, C), scaled.
            timesteps: (B, T) integers below max_ep_len.
            at: Predict only this timestep: what acting needs. None predicts all.

        Returns:
            (B, T, F), or (B, F) with ``at``.
        """


def num_parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
