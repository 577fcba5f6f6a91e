"""What can be earned from a logged step on, at least and at most: no critic may promise more.

Shapes: N steps, B steps of a batch, K actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.runtime.shapes import Bool, Float, Float64, Int

POSSIBLE = "no step earns less or more than every logged one, and no episode is longer than the longest logged one"
"""What the range assumes."""


@dataclass(frozen=True)
class PossibleReturns:
    """The range of the sum of rewards from each step to the end of its episode."""

    low: Float64[np.ndarray, "N"]
    high: Float64[np.ndarray, "N"]

    def scaled(self, scale: float) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        """Return both ends in units of ``scale``."""
        return torch.from_numpy(self.low / scale).float(), torch.from_numpy(self.high / scale).float()


def possible_returns(rewards: Float64[np.ndarray, "N"], is_last: Bool[np.ndarray, "N"]) -> PossibleReturns:
    """Return the range that the range of logged rewards and the longest logged episode leave to each step.

    A policy may earn more than any logged episode, by joining the best parts of several, so that the range of logged returns
    would be too narrow.

    Args:
        rewards: Rewards.
        is_last: True at the last step of its episode.
    """
    ends = np.flatnonzero(is_last)
    lengths = np.diff(ends, prepend=-1)
    timesteps = np.arange(len(rewards)) - np.repeat(ends - lengths + 1, lengths)
    # This step's reward comes in any case; after it the episode may end, or go on for as long as the longest one.
    after = lengths.max() - 1 - timesteps
    least, most = float(rewards.min()), float(rewards.max())
    return PossibleReturns(least + min(0.0, least) * after, most + max(0.0, most) * after)


def clip_values(
    values: Float[Tensor, "B K"], ends: tuple[Float[Tensor, "N"], Float[Tensor, "N"]], rows: Int[Tensor, "B"]
) -> Float[Tensor, "B K"]:
    """Return the values of some actions at some steps, moved into what is possible there."""
    low, high = ends
    return torch.clamp(values, low[rows, None], high[rows, None])
