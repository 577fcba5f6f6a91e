"""The last timesteps of live episodes, in the model's units.

Shapes: S sessions, R sessions that act now, T timesteps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.policy.spec import PolicySpec


class History:
    """The last ``length`` timesteps of S episodes, in ring buffers.

    Step t of session s is at row s * length + t % length of every column, so that writing the newest
    step and reading a window are one indexing operation each, whatever the sessions' lengths.
    """

    def __init__(self, spec: PolicySpec, sessions: int, length: int, device: torch.device) -> None:
        self._length = length
        self._device = device
        observation = spec.data.observation_space.flat_shape
        is_image = len(observation) == 3
        state = (observation[0] * spec.frame_stack, *observation[1:]) if is_image else observation
        action_space = spec.data.action_space
        action_dtype = torch.float32 if action_space.is_continuous else torch.int64
        rows = sessions * length
        self.columns = {
            "states": self._zeros(rows, state, torch.uint8 if is_image else torch.float32),
            "actions": self._zeros(rows, action_space.action_shape, action_dtype),
            "conditions": self._zeros(rows, (sum(spec.model.widths),), torch.float32),
            "timesteps": self._zeros(rows, (), torch.int64),
        }

    def _zeros(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, *shape, dtype=dtype, device=self._device)

    def put(self, rows: np.ndarray, steps: np.ndarray, **values: Tensor) -> None:
        """Write ``states``, ``actions``, ``conditions`` or ``timesteps`` (R, ...) at ``steps`` (R,) of ``rows``."""
        at = self._positions(rows, steps)
        for name, value in values.items():
            self.columns[name].index_copy_(0, at, value.to(self.columns[name].dtype))

    def take(self, rows: np.ndarray, steps: np.ndarray) -> tuple[Tensor, ...]:
        """Return what is stored at ``steps`` (R, T) of ``rows``: the inputs of a model, (R, T, ...) each."""
        at = self._positions(rows[:, None], steps).flatten()
        return tuple(column.index_select(0, at).unflatten(0, steps.shape) for column in self.columns.values())

    def _positions(self, rows: np.ndarray, steps: np.ndarray) -> Tensor:
        return torch.from_numpy(rows * self._length + steps % self._length).to(self._device)
