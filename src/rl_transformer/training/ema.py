"""The exponential moving average (EMA) of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.training.optimizer import trained_parameters

# The foreach functions are not exported, but torch's own optimizers are built on them.
_torch: Any = torch


class EMA:
    """Averages of the trained weights; the horizon is short at first, so that the initial weights are forgotten."""

    def __init__(self, objective: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = list(trained_parameters(objective).values())
        self.averages = {name: p.detach().clone() for name, p in trained_parameters(objective).items()}

    def weight(self, step: int) -> float:
        """Return the weight of the parameters after update ``step``: 1 - min(decay, step / (step + 10))."""
        return 1 - min(self.decay, step / (step + 10))

    def update(self, weight: float) -> None:
        """Move the averages towards the live weights by the share ``weight``."""
        lerp_averages(list(self.averages.values()), self._live, weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the averages, in place."""
        for live, average in zip(self._live, self.averages.values(), strict=True):
            previous = live.clone()
            live.copy_(average)
            average.copy_(previous)


@torch.no_grad()
def lerp_averages(averages: list[Tensor], live: list[Tensor], weight: float | Tensor) -> None:
    """Move ``averages`` towards ``live`` by the share ``weight``, in place.

    A CUDA graph reads the weight from a tensor, which torch's foreach lerp does not take.
    """
    if isinstance(weight, Tensor):
        differences = _torch._foreach_sub(live, averages)
        _torch._foreach_mul_(differences, weight)
        _torch._foreach_add_(averages, differences)
    else:
        _torch._foreach_lerp_(averages, live, weight)
