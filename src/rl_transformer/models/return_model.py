"""The return model: a distribution over the return-to-go, given a history.

The same causal transformer without conditions reads (observation, action, observation, ...) and predicts
how likely each return-to-go is, before and after each action. Chen et al. 2021 (section 5.5) train one
network to predict actions and returns; here they are separate networks, so that the predicted return
cannot be read off the target return.

Shapes: B windows, T timesteps, N bins.
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
from rl_transformer.models.trunk.reproducible_sums import neighborhood

BEFORE_ACTION = 0
AFTER_ACTION = 1


class ReturnModel(nn.Module):
    """P(return-to-go | history) over evenly spaced values.

    A return between two values is split between them by its distance to each, so that the mean of the
    target distribution is exactly the mean return: labels of expected returns need that.

    Args:
        config: The policy's model; its conditions are removed.
        low: Smallest return, scaled.
        high: Largest return, scaled.
        num_bins: N, two or more.
    """

    values: Tensor

    def __init__(self, config: DecisionTransformerConfig, *, low: float, high: float, num_bins: int) -> None:
        super().__init__()
        self.history = DecisionTransformerModel(replace(config, conditions=(), condition_widths=None, trunk=None))
        del self.history.predict_action  # the return model does not act
        self.return_logits = nn.Linear(config.hidden_size, num_bins)
        self.register_buffer("values", torch.linspace(low, high, num_bins), persistent=False)

    def forward(self, states: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Return log-probabilities (B, T, 2, N): before (0) and after (1) the action of each step."""
        tokens = self._tokens(states, actions, timesteps)
        hidden = self.history.trunk.hidden_at(tokens, slice(None))
        return self._log_probabilities(hidden).unflatten(1, (-1, 2))

    def before_action(self, states: Tensor, actions: Tensor, timesteps: Tensor, *, at: int) -> Tensor:
        """Return log-probabilities (B, N) at timestep ``at``, before its action: what acting needs."""
        tokens = self._tokens(states, actions, timesteps)[:, :-1]
        around, place = neighborhood(2 * at, tokens.shape[1])
        return self._log_probabilities(self.history.trunk.hidden_at(tokens, around))[:, place]

    def attentions(self, states: Tensor, actions: Tensor, timesteps: Tensor) -> tuple[Tensor, ...]:
        """Return each layer's attention weights (B, H, 2T, 2T), over observation and action tokens in turn."""
        found = self.history.trunk.run(self._tokens(states, actions, timesteps), None, keep_weights=True).attentions
        assert found is not None
        return found

    def _tokens(self, states: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        return self.history.embed(states, actions, states.new_zeros(*timesteps.shape, 0), timesteps).tokens

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        return self.return_logits(hidden).float().log_softmax(-1)

    def expected(self, log_probabilities: Tensor) -> Tensor:
        """Return the mean of each distribution, scaled: (..., N) -> (...)."""
        return log_probabilities.exp() @ self.values

    def loss(self, log_probabilities: Tensor, returns: Tensor) -> Tensor:
        """Return the cross-entropy of each step, before and after its action: (B, T, 2, N), (B, T) -> (B, T)."""
        return -(log_probabilities * self.soft_bins(returns)[:, :, None]).sum(-1).mean(-1)

    def soft_bins(self, returns: Tensor) -> Tensor:
        """Return each scaled return as weights of its two neighboring values: (...) -> (..., N)."""
        last = len(self.values) - 1
        place = (returns - self.values[0]) / (self.values[-1] - self.values[0]) * last
        place = place.clamp(0, last)
        below = place.floor().clamp(max=last - 1)
        upper = (place - below)[..., None]
        index = below.long()
        low, high = F.one_hot(index, last + 1), F.one_hot(index + 1, last + 1)
        return low * (1 - upper) + high * upper


def return_bins(returns_to_go: np.ndarray, count: int) -> tuple[float, float, int]:
    """Return the smallest and largest return-to-go, and the number of values between them.

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


def select_return(log_probabilities: Tensor, prior_exponent: float, floor: float) -> Tensor:
    """Return the bin of the target return: the mode of P(R | history) * P_prior(R) ** exponent.

    The prior rises linearly from the worst bin to the best one. For a reward of -1 per step it is the
    prior of the paper's shortest paths, P(R = -k) proportional to T + 1 - k (Chen et al. 2021,
    appendix). Returns less likely than ``floor`` are excluded, unless they are the most likely ones: a
    network's probabilities are never exactly zero, and the tenth power of the prior would raise a residual
    probability above what the data supports.
    """
    prior = torch.arange(1, log_probabilities.shape[-1] + 1, device=log_probabilities.device)
    likeliest = log_probabilities.amax(-1, keepdim=True)
    possible = (log_probabilities.exp() >= floor) | (log_probabilities == likeliest)
    weighted = log_probabilities + prior_exponent * prior.log()
    return weighted.masked_fill(~possible, -math.inf).argmax(-1)
