"""The return model: a distribution over the return-to-go, given a history.

The same causal transformer without conditions reads (observation, action, observation, ...) and predicts
how likely each return-to-go is, before and after each action. Chen et al. 2021 (section 5.5) train one
network to predict actions and returns; here they are separate networks, so that the predicted return
cannot be copied from the target return.

Shapes: B windows, T timesteps, L = 2 T tokens, Q of them whose outputs are needed, N bins, H heads, E hidden_size,
*B any leading axes; *state and *action are the axes of one observation and of one action.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.decision_transformer import DecisionTransformerModel
from rl_transformer.models.trunk.reproducible_sums import neighborhood, read_rows
from rl_transformer.runtime.shapes import Float, Int, Shaped

BEFORE_ACTION = 0
AFTER_ACTION = 1


class ReturnModel(nn.Module):
    """P(return-to-go | history) over evenly spaced values.

    A return between two values is split between them according to its distance from each, so that the mean of the
    target distribution is exactly the mean return: labels of expected returns depend on that.

    Args:
        config: The configuration of the policy's model; its conditions are removed.
        low: Smallest return, scaled.
        high: Largest return, scaled.
        num_bins: N, two or more.
    """

    values: Float[Tensor, "N"]

    def __init__(self, config: DecisionTransformerConfig, *, low: float, high: float, num_bins: int) -> None:
        super().__init__()
        self.history = DecisionTransformerModel(replace(config, conditions=(), condition_widths=None, trunk=None))
        del self.history.predict_action  # the return model does not act
        self.return_logits = nn.Linear(config.hidden_size, num_bins)
        self.register_buffer("values", torch.linspace(low, high, num_bins), persistent=False)

    def forward(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        timesteps: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B T 2 N"]:
        """Return log-probabilities before (index 0) and after (index 1) the action of each timestep."""
        tokens = self._tokens(states, actions, timesteps)
        hidden = self.history.trunk.hidden_at(tokens, slice(None))
        return self._log_probabilities(hidden).unflatten(1, (-1, 2))

    def before_action(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        timesteps: Int[Tensor, "B T"],
        *,
        at: int,
    ) -> Float[Tensor, "B N"]:
        """Return log-probabilities at timestep ``at``, before its action, for a policy that is about to act."""
        tokens = self._tokens(states, actions, timesteps)[:, :-1]
        # One position would be enough, but its sums would depend on the batch size: see reproducible_sums.
        around, place = neighborhood(2 * at, tokens.shape[1])
        return read_rows(self._log_probabilities, self.history.trunk.hidden_at(tokens, around)[:, place])

    def attentions(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        timesteps: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B H L L"], ...]:
        """Return each layer's attention weights over observation and action tokens in turn."""
        weights = self.history.trunk.run(self._tokens(states, actions, timesteps), None, keep_weights=True).attentions
        assert weights is not None
        return weights

    def _tokens(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        timesteps: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B L E"]:
        no_conditions = states.new_zeros(*timesteps.shape, 0, dtype=torch.float32)
        return self.history.embed(states, actions, no_conditions, timesteps).tokens

    def _log_probabilities(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B N"]:
        # In float32 also under autocast: the sum of exponentials would lose small probabilities in bfloat16.
        return self.return_logits(hidden).float().log_softmax(-1)

    def expected(self, log_probabilities: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
        """Return the mean of each distribution, scaled."""
        return log_probabilities.exp() @ self.values

    def loss(self, log_probabilities: Float[Tensor, "B T 2 N"], returns: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Return the cross-entropy of each timestep, averaged over before and after its action."""
        return -(log_probabilities * self.soft_bins(returns)[:, :, None]).sum(-1).mean(-1)

    def soft_bins(self, returns: Float[Tensor, "*B"]) -> Float[Tensor, "*B N"]:
        """Return each scaled return as weights of its two neighboring values."""
        last = len(self.values) - 1
        place = (returns - self.values[0]) / (self.values[-1] - self.values[0]) * last
        place = place.clamp(0, last)
        # The largest return has no value above it: it is the last value with a weight of one, not one beyond it.
        below = place.floor().clamp(max=last - 1)
        upper = (place - below)[..., None]
        index = below.long()
        low = F.one_hot(index, last + 1)
        high = F.one_hot(index + 1, last + 1)
        return low * (1 - upper) + high * upper


def return_bins(returns_to_go: Float[np.ndarray, "steps"], count: int) -> tuple[float, float, int]:
    """Return the smallest and largest return-to-go, and the number of values from one to the other.

    Raises:
        RLTransformerError: All returns are the same.
    """
    low = float(returns_to_go.min())
    high = float(returns_to_go.max())
    if low == high:
        raise RLTransformerError(
            f"every return-to-go of the data is {low:g} (scaled): there is nothing to predict",
            where="returns",
            fix="leave returns.predict, returns.label and policy.target at their defaults",
        )
    return low, high, count


def select_return(log_probabilities: Float[Tensor, "B N"], prior_exponent: float, floor: float) -> Int[Tensor, "B"]:
    """Return the bin of the target return: the mode of P(R | history) * P_prior(R) ** exponent.

    The prior rises linearly from the worst bin to the best one. For a reward of -1 per step it is the
    prior of the paper's shortest paths, P(R = -k) proportional to T + 1 - k (Chen et al. 2021, appendix).
    """
    # Returns less likely than the floor are excluded, unless they are the most likely ones: a network's probabilities
    # are never exactly zero, and a high power of the prior would lift such a residue above what the data supports.
    prior = torch.arange(1, log_probabilities.shape[-1] + 1, device=log_probabilities.device)
    likeliest = log_probabilities.amax(-1, keepdim=True)
    possible = (log_probabilities.exp() >= floor) | (log_probabilities == likeliest)
    weighted = log_probabilities + prior_exponent * prior.log()
    return weighted.masked_fill(~possible, -math.inf).argmax(-1)
