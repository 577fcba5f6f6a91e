"""Between recorded numbers and the model's: one conversion for training windows and live steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.spaces import DataSpec
from rl_transformer.trajectories.statistics import ObservationStatistics


@dataclass(frozen=True)
class Scaling:
    """Normalizes observations and maps actions to [-1, 1] and back.

    Every field is a float32 tensor, or None where nothing is to be done (images, discrete actions).
    """

    observation_mean: Tensor | None
    observation_scale: Tensor | None
    action_center: Tensor | None
    action_half_range: Tensor | None

    @classmethod
    def of(cls, spec: DataSpec, statistics: ObservationStatistics | None, *, action_tanh: bool) -> Scaling:
        """Make the scaling of a data set.

        Raises:
            RLTransformerError: Actions without bounds for a model that squashes them.
        """
        mean = scale = center = half = None
        if statistics is not None:
            mean, scale = (torch.tensor(v, dtype=torch.float32) for v in (statistics.mean, statistics.scale))
        if spec.action_space.kind == "box" and action_tanh:
            low, high = spec.action_space.bounds
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise RLTransformerError(
                    "the action space has no bounds, and the model squashes actions into bounds",
                    where=spec.source or "action space",
                    fix="set model.action_tanh to false, or declare the bounds of the actions",
                )
            center, half = (torch.tensor(v, dtype=torch.float32) for v in ((high + low) / 2, (high - low) / 2))
        return cls(mean, scale, center, half)

    def observations(self, recorded: Tensor) -> Tensor:
        """Normalize observations (..., D); images pass unchanged."""
        if self.observation_mean is None or self.observation_scale is None:
            return recorded
        return (recorded - self.observation_mean) / self.observation_scale

    def actions(self, recorded: Tensor) -> Tensor:
        """Map recorded actions to the model's."""
        if self.action_center is None or self.action_half_range is None:
            return recorded
        return (recorded - self.action_center) / self.action_half_range

    def recorded_actions(self, actions: Tensor) -> Tensor:
        """Map the model's actions to recorded ones, inside the bounds."""
        if self.action_center is None or self.action_half_range is None:
            return actions
        low, high = self.action_center - self.action_half_range, self.action_center + self.action_half_range
        return torch.clamp(actions * self.action_half_range + self.action_center, low, high)

    def to(self, device: torch.device) -> Scaling:
        """Return a copy on ``device``."""
        return Scaling(**{name: None if t is None else t.to(device) for name, t in vars(self).items()})
