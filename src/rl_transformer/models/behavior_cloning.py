"""Behavior cloning by an MLP on the last K observations, the network of the paper's BC and %BC.

Shapes: B windows, T timesteps, D length of an observation vector, C numbers of all conditions, F parameters of the
action head; *action are the axes of one action.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.heads import make_action_head
from rl_transformer.models.interface import PolicyModel
from rl_transformer.models.trunk.dropout import Dropout
from rl_transformer.models.trunk.reproducible_sums import neighborhood, read_rows
from rl_transformer.runtime.shapes import Float, Int, Shaped


class BehaviorCloningModel(PolicyModel):
    """Predicts the action from the last ``context_length`` observations, oldest first.

    It takes the same windows as `DecisionTransformerModel` and is called in the same way, but does not read
    conditions, actions or timesteps.
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
        self,
        states: Float[Tensor, "B T D"],
        actions: Shaped[Tensor, "B T *action"],
        conditions: Float[Tensor, "B T C"],
        timesteps: Int[Tensor, "B T"],
        *,
        at: int | None = None,
    ) -> Float[Tensor, "B T F"] | Float[Tensor, "B F"]:
        """Return the action head's parameters; arguments as in `PolicyModel`."""
        # Before an episode's first observation there are zeros, the mean of normalized observations.
        padded = torch.cat([states.new_zeros(states.shape[0], self.context_length - 1, states.shape[2]), states], dim=1)
        stacked = padded.unfold(1, self.context_length, 1).transpose(2, 3).flatten(2)  # (B, T, K * state_dim)
        if at is None:
            return self.predict_action(self.layers(stacked))
        # One timestep would be enough, but its sums would depend on the batch size: see reproducible_sums.
        around, place = neighborhood(at, stacked.shape[1])
        return read_rows(self.predict_action, self.layers(stacked[:, around])[:, place])
