"""Normalize observations and actions, with the same conversion for training windows and for acting.

Shapes: D length of an observation vector, A length of an action vector, *axes any axes, the last of which is D or A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Shaped
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.mixed_rows import NUMBER_BYTES
from rl_transformer.trajectories.mixed_tensors import as_bytes, as_numbers
from rl_transformer.trajectories.statistics import ObservationStatistics


@dataclass(frozen=True)
class Normalizer:
    """Normalizes observations, maps actions to the model's units and back, and clips them to their bounds.

    Observation fields are None for images (of pictures beside numbers they are those of the numbers), and action fields are None for discrete actions. The bounds may be infinite.
    """

    observation_mean: Float[Tensor, "D"] | None
    observation_scale: Float[Tensor, "D"] | None
    action_center: Float[Tensor, "A"] | None
    action_scale: Float[Tensor, "A"] | None
    action_low: Float[Tensor, "A"] | None
    action_high: Float[Tensor, "A"] | None

    @classmethod
    def from_data(cls, spec: DataSpec, statistics: ObservationStatistics | None, *, action_tanh: bool) -> Normalizer:
        """Take mean and scale from the data; with ``action_tanh`` the action bounds become [-1, 1].

        Raises:
            RLTransformerError: The actions have no bounds, and the model squashes them into bounds.
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

    def normalize(self, recorded: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
        """Normalize observation vectors, also those beside pictures; return images unchanged."""
        if self.observation_mean is None or self.observation_scale is None:
            return recorded
        if recorded.dtype == torch.uint8:  # pictures and numbers as bytes, see `mixed_rows`
            begin = recorded.shape[-1] - NUMBER_BYTES * len(self.observation_mean)
            numbers = (as_numbers(recorded[..., begin:]) - self.observation_mean) / self.observation_scale
            return torch.cat([recorded[..., :begin], as_bytes(numbers)], dim=-1)
        return (recorded - self.observation_mean) / self.observation_scale

    def normalize_in_place(self, flat: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
        """Normalize observation vectors that nothing else uses, without a copy; the numbers are those of `normalize`."""
        if self.observation_mean is None or self.observation_scale is None:
            return flat
        return flat.sub_(self.observation_mean).div_(self.observation_scale)

    def to_model_actions(self, recorded: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
        """Map recorded actions to the model's units, which are [-1, 1] with ``action_tanh``."""
        if self.action_center is None or self.action_scale is None:
            return recorded
        return (recorded - self.action_center) / self.action_scale

    def to_env_actions(self, actions: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*axes"]:
        """Map the model's actions to the environment's units, clipped to the bounds."""
        if self.action_center is None or self.action_scale is None:
            return actions
        return torch.clamp(actions * self.action_scale + self.action_center, self.action_low, self.action_high)

    def to(self, device: torch.device) -> Normalizer:
        """Return a copy on ``device``."""
        return Normalizer(**{name: None if t is None else t.to(device) for name, t in vars(self).items()})


def _tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    # Statistics are float64, so that they are computed exactly; the model's inputs are float32.
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)
