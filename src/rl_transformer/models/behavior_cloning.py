"""Behavior cloning by an MLP on the last K observations: the paper's BC and %BC network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.heads import make_action_head
from rl_transformer.models.interface import PolicyModel
from rl_transformer.models.trunk.dropout import Dropout
from rl_transformer.models.trunk.reproducible_sums import neighborhood


class BehaviorCloningModel(PolicyModel):
    """Predicts the action from the last ``context_length`` observations, oldest first.

    It takes the same windows as `DecisionTransformerModel` and is called in the same way, but reads neither
    conditions, nor actions, nor timesteps. Before an episode's first observation there are zeros, the
    mean of normalized observations.
    """

    def __init__(self, config: DecisionTransformerConfig, context_length: int) -> None:
        super().__init__()
        self.config = config
        self.context_length = context_length
        layers: list[nn.Module] = []
        width = context_length * config.state_dim
        for _ in range(config.n_layer):
            layers += [nn.Linear(width, config.hidden_size), nn.ReLU(), Dropout(config.resid_pdrop)]
            width = config.hidden_size
        self.layers = nn.Sequential(*layers)
        self.predict_action = make_action_head(config)

    def predict_actions(
        self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor, *, at: int | None = None
    ) -> Tensor:
        """Return the action head's parameters, (B, T, F) or (B, F) with ``at``; see `PolicyModel`."""
        padded = torch.cat([states.new_zeros(len(states), self.context_length - 1, states.shape[2]), states], dim=1)
        stacked = padded.unfold(1, self.context_length, 1).transpose(2, 3).flatten(2)  # (B, T, K * state_dim)
        if at is None:
            return self.predict_action(self.layers(stacked))
        around, place = neighborhood(at, stacked.shape[1])
        return self.predict_action(self.layers(stacked[:, around]))[:, place]
