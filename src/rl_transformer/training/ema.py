"""Keep an exponential moving average (EMA) of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.training.optimizer import trained_parameters

# The foreach functions update all tensors in a few kernel launches instead of one per tensor. They are not exported,
# but torch's own optimizers are built on them, so they are stable in practice.
_torch: Any = torch


class EMA:
    """Averages the trained weights, over few updates at first so that the random initial weights lose their influence.

    Args:
        objective: The model, or a `TrainingObjective`.
        decay: Decay per update in the long run; the average then spans about 1 / (1 - decay) updates.
    """

    def __init__(self, objective: nn.Module, decay: float) -> None:
        self.decay = decay
        # Frozen weights never change, so averaging them would only cost memory.
        self._live = list(trained_parameters(objective).values())
        self.averages = {name: p.detach().clone() for name, p in trained_parameters(objective).items()}

    def weight(self, step: int) -> float:
        """Return the weight of update ``step`` (from 1) in the average: 1 - min(decay, step / (step + 10))."""
        return 1 - min(self.decay, step / (step + 10))

    def update(self, weight: float) -> None:
        """Move the averages towards the live weights by the fraction ``weight``."""
        lerp_averages(list(self.averages.values()), self._live, weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the averages in place."""
        # Copying, not rebinding: the optimizer, DistributedDataParallel and captured CUDA graphs hold these tensors.
        for live, average in zip(self._live, self.averages.values(), strict=True):
            previous = live.clone()
            live.copy_(average)
            average.copy_(previous)


@torch.no_grad()
def lerp_averages(averages: list[Tensor], live: list[Tensor], weight: float | Tensor) -> None:
    """Move ``averages`` towards ``live`` by the fraction ``weight``, in place.

    Args:
        averages: Tensors to change.
        live: Tensors of the same shapes.
        weight: 0 changes nothing, 1 copies; a scalar tensor inside a captured CUDA graph.
    """
    # torch's foreach lerp takes the weight as a Python number only, and a CUDA graph would capture that as a constant.
    if isinstance(weight, Tensor):
        differences = _torch._foreach_sub(live, averages)
        _torch._foreach_mul_(differences, weight)
        _torch._foreach_add_(averages, differences)
    else:
        _torch._foreach_lerp_(averages, live, weight)
