"""The last timesteps of live episodes, in the model's units.

Shapes: S sessions, R sessions that act now, K sessions that are kept, N timesteps of one session, T timesteps; *image are
the axes of an image, channels first.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def __init__(
        self, spec: PolicySpec, sessions: int, length: int, device: torch.device, encoded: tuple[int, ...] | None = None
    ) -> None:
        self.length = length
        self._device = device
        rows = sessions * length
        # In the order of the arguments of `predict_actions`, to which `take` passes them.
        self.columns = {
            name: torch.zeros(rows, *shape, dtype=dtype, device=device)
            for name, (shape, dtype) in column_formats(spec).items()
        }
        self._inputs = list(self.columns)
        if encoded is not None:
            self.columns["encoded"] = torch.zeros(rows, *encoded, device=device)

    def put(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], **values: Shaped[Tensor, "R ..."]) -> None:
        """Write ``states``, ``actions`` and other columns at one step of each of ``rows``."""
        at = self._positions(rows, steps)
        for name, value in values.items():
            self.columns[name].index_copy_(0, at, value.to(self.columns[name].dtype))

    def take(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R T"]) -> tuple[Shaped[Tensor, "R T ..."], ...]:
        """Return the inputs of a model at the given steps of ``rows``, in the order of `predict_actions`."""
        return self._take(self._inputs, rows, steps)

    def take_encoded(
        self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R T"]
    ) -> tuple[Shaped[Tensor, "R T ..."], ...]:
        """Return the inputs at the given steps of ``rows``, with the encoded states in place of the states."""
        return self._take(["encoded", *self._inputs[1:]], rows, steps)

    def _take(
        self, names: Sequence[str], rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R T"]
    ) -> tuple[Shaped[Tensor, "R T ..."], ...]:
        at = self._positions(rows[:, None], steps).flatten()
        return tuple(self.columns[name].index_select(0, at).unflatten(0, steps.shape) for name in names)

    def stack_frames(
        self,
        rows: Int[np.ndarray, "R"],
        steps: Int[np.ndarray, "R"],
        newest: UInt8[Tensor, "R *image"],
        is_first: Bool[np.ndarray, "R"],
    ) -> UInt8[Tensor, "R channels height width"]:
        """Return the states at ``steps``: the last images of each session, channels one after the other."""
        # The state before holds the earlier images. Nothing else remembers them, so an action that is refused after
        # this call can be asked for again.
        before = self.columns["states"].index_select(0, self._positions(rows, steps - 1))
        channels = newest.shape[1]
        shifted = torch.cat([before[:, channels:], newest], dim=1)
        # An episode's first image is repeated, as in the windows of training.
        repeated = newest.repeat(1, before.shape[1] // channels, 1, 1)
        return torch.where(torch.from_numpy(is_first).to(newest.device).view(-1, 1, 1, 1), repeated, shifted)

    def resize(self, keep: Int[np.ndarray, "K"], sessions: int) -> None:
        """Make room for ``sessions``, of which the first are those in ``keep``; all others are forgotten."""
        for name, column in self.columns.items():
            by_session = column.unflatten(0, (-1, self.length))
            resized = torch.zeros(sessions, *by_session.shape[1:], dtype=column.dtype, device=self._device)
            resized[: len(keep)] = by_session[torch.from_numpy(keep).to(self._device)]
            self.columns[name] = resized.flatten(0, 1)

    def read_session(self, row: int, steps: Int[np.ndarray, "N"]) -> dict[str, Shaped[Tensor, "N ..."]]:
        """Return every column at some steps of one session."""
        at = self._positions(np.full_like(steps, row), steps)
        return {name: column.index_select(0, at) for name, column in self.columns.items()}

    def write_session(self, row: int, steps: Int[np.ndarray, "N"], values: dict[str, Shaped[Tensor, "N ..."]]) -> None:
        """Write columns at some steps of one session."""
        on_device = {name: value.to(self._device) for name, value in values.items()}
        self.put(np.full_like(steps, row), steps, **on_device)

    @property
    def nbytes(self) -> int:
        """Return the memory of all columns, in bytes."""
        return sum(column.nbytes for column in self.columns.values())

    def _positions(self, rows: Int[np.ndarray, "..."], steps: Int[np.ndarray, "..."]) -> Int[Tensor, "..."]:
        return torch.from_numpy(rows * self.length + steps % self.length).to(self._device)


def column_formats(spec: PolicySpec) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape of one timestep and the dtype of every column."""
    space = spec.data.observation_space
    observation = space.flat_shape
    state = (observation[0] * spec.frame_stack, *observation[1:]) if space.is_image else observation
    action_space = spec.data.action_space
    return {
        "states": (state, torch.uint8 if space.has_image else torch.float32),
        "actions": (action_space.action_shape, torch.float32 if action_space.is_continuous else torch.int64),
        "conditions": ((sum(spec.model.widths),), torch.float32),
        "timesteps": ((), torch.int64),
    }
