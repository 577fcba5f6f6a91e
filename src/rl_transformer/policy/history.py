"""What live episodes have seen and done lately, in the model's units.

Shapes: S sessions, R rows that act now, T timesteps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from rl_transformer.policy.policy import Policy


class History:
    """The last ``length`` timesteps of S episodes, kept in rings."""

    def __init__(self, policy: Policy, sessions: int, length: int) -> None:
        spec, self._length, self._device = policy.spec, length, policy.device
        observation, discrete = spec.data.observation_space.flat_shape, spec.data.action_space.kind == "discrete"
        stacked = (observation[0] * spec.frame_stack, *observation[1:]) if spec.frame_stack > 1 else observation
        image = len(observation) == 3
        self.columns = {
            "states": self._ring(sessions, stacked, torch.uint8 if image else torch.float32),
            "actions": self._ring(
                sessions, () if discrete else (spec.model.act_dim,), torch.int64 if discrete else torch.float32
            ),
            "conditions": self._ring(sessions, (len(spec.model.conditions),), torch.float32),
            "timesteps": self._ring(sessions, (), torch.int64),
        }
        """(S * length, ...) each: step t of session s stands at row s * length + t % length."""

    def _ring(self, sessions: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(sessions * self._length, *shape, dtype=dtype, device=self._device)

    def put(self, rows: np.ndarray, steps: np.ndarray, **values: Tensor) -> None:
        """Write ``states``, ``actions``, ``conditions`` or ``timesteps`` (R, ...) at ``steps`` of ``rows``."""
        at = self._places(rows, steps)
        for name, value in values.items():
            self.columns[name].index_copy_(0, at, value.to(self.columns[name].dtype))

    def take(self, rows: np.ndarray, steps: np.ndarray) -> tuple[Tensor, ...]:
        """Return what stands at ``steps`` (R, T) of ``rows``: the inputs of a model, (R, T, ...) each."""
        at = self._places(rows[:, None], steps).flatten()
        return tuple(column.index_select(0, at).unflatten(0, steps.shape) for column in self.columns.values())

    def _places(self, rows: np.ndarray, steps: np.ndarray) -> Tensor:
        return torch.from_numpy(rows * self._length + steps % self._length).to(self._device)
