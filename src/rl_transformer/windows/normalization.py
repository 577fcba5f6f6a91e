"""Normalization of observations and actions: one conversion for training windows and for acting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.statistics import ObservationStatistics


@dataclass(frozen=True)
class Normalizer:
    """Normalizes observations, maps actions to the model's units and back, and keeps them in bounds.

    Every field is a float32 tensor. Observation fields are None for images; action fields are None
    for discrete actions.
    """

    observation_mean: Tensor | None
    observation_scale: Tensor | None
    action_center: Tensor | None
    action_scale: Tensor | None
    action_low: Tensor | None
    action_high: Tensor | None

    @classmethod
    def from_data(cls, spec: DataSpec, statistics: ObservationStatistics | None, *, action_tanh: bool) -> Normalizer:
        """Take mean and scale from the data; with ``action_tanh``, the action bounds become [-1, 1].

        Raises:
            RLTransformerError: Actions without bounds, for a model that squashes them into bounds.
        """
        mean = scale = None
        if statistics is not None:
            mean, scale = _tensors(statistics.mean, statistics.scale)
        if not spec.action_space.is_continuous:
            return cls(mean, scale, None, None, None, None)
        low, high = spec.action_space.bounds
        if not action_tanh:
            return cls(mean, scale, *_tensors(np.zeros_like(low), np.ones_like(low), low, high))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise RLTransformerError(
                "the action space has no bounds, and the model squashes actions into bounds",
                where=spec.source or "action space",
                fix="set model.action_tanh to false, or declare the bounds of the actions",
            )
        half = np.where(high > low, (high - low) / 2, 1)  # a dimension that cannot vary keeps its one value
        return cls(mean, scale, *_tensors((high + low) / 2, half, low, high))

    def normalize(self, recorded: Tensor) -> Tensor:
        """Normalize observations (..., D); images pass unchanged."""
        if self.observation_mean is None or self.observation_scale is None:
            return recorded
        return (recorded - self.observation_mean) / self.observation_scale

    def to_model_actions(self, recorded: Tensor) -> Tensor:
        """Map recorded actions to the model's units: [-1, 1] with ``action_tanh``."""
        if self.action_center is None or self.action_scale is None:
            return recorded
        return (recorded - self.action_center) / self.action_scale

    def to_env_actions(self, actions: Tensor) -> Tensor:
        """Map the model's actions to the environment's units, inside the bounds."""
        if self.action_center is None or self.action_scale is None:
            return actions
        return torch.clamp(actions * self.action_scale + self.action_center, self.action_low, self.action_high)

    def to(self, device: torch.device) -> Normalizer:
        """Return a copy on ``device``."""
        return Normalizer(**{name: None if t is None else t.to(device) for name, t in vars(self).items()})


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)
