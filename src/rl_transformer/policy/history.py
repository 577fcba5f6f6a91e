"""The last timesteps of live episodes, in the model's units.

Shapes: S sessions, R sessions that act now, T timesteps; *image are the axes of an image, channels first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime.shapes import Bool, Int, Shaped, UInt8


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
        # In the order of the arguments of `predict_actions`, to which `take` passes them.
        self.columns = {
            "states": self._zeros(rows, state, torch.uint8 if is_image else torch.float32),
            "actions": self._zeros(rows, action_space.action_shape, action_dtype),
            "conditions": self._zeros(rows, (sum(spec.model.widths),), torch.float32),
            "timesteps": self._zeros(rows, (), torch.int64),
        }

    def _zeros(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, *shape, dtype=dtype, device=self._device)

    def put(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], **values: Shaped[Tensor, "R ..."]) -> None:
        """Write ``states``, ``actions``, ``conditions`` or ``timesteps`` at one step of each of ``rows``."""
        at = self._positions(rows, steps)
        for name, value in values.items():
            self.columns[name].index_copy_(0, at, value.to(self.columns[name].dtype))

    def take(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R T"]) -> tuple[Shaped[Tensor, "R T ..."], ...]:
        """Return the inputs of a model at the given steps of ``rows``: every column, in its order."""
        at = self._positions(rows[:, None], steps).flatten()
        return tuple(column.index_select(0, at).unflatten(0, steps.shape) for column in self.columns.values())

    def _positions(self, rows: Int[np.ndarray, "..."], steps: Int[np.ndarray, "..."]) -> Int[Tensor, "..."]:
        return torch.from_numpy(rows * self._length + steps % self._length).to(self._device)


class FrameStack:
    """The last images of S episodes, which together are the state of a policy that reads stacked frames."""

    def __init__(self, sessions: int, length: int, image_shape: tuple[int, ...]) -> None:
        # On the CPU, where images arrive: only the stacked ones go to the device.
        self._frames = torch.zeros(sessions, length, *image_shape, dtype=torch.uint8)

    def append(
        self, rows: Int[np.ndarray, "R"], newest: UInt8[Tensor, "R *image"], is_first: Bool[np.ndarray, "R"]
    ) -> UInt8[Tensor, "R channels height width"]:
        """Append one image to each of ``rows``, and return the last ones with their channels one after the other."""
        shifted = torch.cat([self._frames[rows][:, 1:], newest[:, None]], dim=1)
        # An episode's first image is repeated, as in the windows of training.
        repeated = newest[:, None].expand_as(shifted)
        begins = torch.from_numpy(is_first).view(-1, *[1] * (shifted.dim() - 1))
        self._frames[rows] = torch.where(begins, repeated, shifted)
        return self._frames[rows].flatten(1, 2)
