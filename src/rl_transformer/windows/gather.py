"""From window indices to a batch on the device, in one gather a column.

Shapes: B windows, T timesteps, N steps of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.windows.sampling import WindowIndex
from rl_transformer.windows.scaling import Scaling

_SPARE_DEVICE_MEMORY = 0.5  # leave half of a GPU to the model


@dataclass(frozen=True)
class WindowBatch:
    """Windows in the model's units, left-aligned: padding stands after the last real step."""

    states: Tensor
    """(B, T, D) float32 normalized, or (B, T, channels, height, width) uint8."""
    actions: Tensor
    """(B, T, A) float32, or (B, T) int64."""
    conditions: Tensor
    """(B, T, C) float32, scaled."""
    timesteps: Tensor
    """(B, T) int64, counted from the start of the episode."""
    valid_mask: Tensor
    """(B, T) bool, True at real steps."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of a model's `predict_actions`."""
        return self.states, self.actions, self.conditions, self.timesteps


class WindowGatherer:
    """Cuts windows out of a data set's columns.

    On a CPU the (possibly memory-mapped) columns are read in place; on a GPU they are moved there
    once if they fit.

    Args:
        dataset: Where windows come from.
        conditions: What is asked for at each step of the data, (N,) each, not scaled.
        condition_scales: Their divisors.
        window_length: T.
        max_timesteps: Rows of the timestep table; later steps are held at the last row.
        scaling: Units of observations and actions.
        frame_stack: Images a state is made of, the newest last; the first one of an episode repeats.
        device: Where batches are wanted.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        *,
        conditions: Sequence[np.ndarray],
        condition_scales: Sequence[float],
        window_length: int,
        max_timesteps: int,
        scaling: Scaling,
        frame_stack: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.window_length, self.max_timesteps, self.frame_stack = window_length, max_timesteps, frame_stack
        columns = [dataset.observations, dataset.actions, *conditions]
        home = self.device if self._fits(columns) else torch.device("cpu")
        self._observations, self._actions = (torch.from_numpy(column).to(home) for column in columns[:2])
        self._home = home
        self.set_conditions(conditions)
        self._offsets = torch.from_numpy(np.asarray(dataset.offsets)).to(home)
        self._steps = torch.arange(window_length, device=home)
        self._scaling = scaling.to(self.device)
        self._scales = list(condition_scales)

    def count_valid(self, index: WindowIndex) -> int:
        """Return how many real steps the windows at ``index`` hold."""
        ends = self._offsets[torch.from_numpy(index.trajectories + 1).to(self._home)].cpu().numpy()
        return int(np.minimum(ends - index.rows, self.window_length).sum())

    def set_conditions(self, conditions: Sequence[np.ndarray]) -> None:
        """Ask for other values from now on: (N,) each, not scaled, in the order of ``condition_scales``."""
        self._conditions = [torch.from_numpy(column).to(self._home) for column in conditions]

    def _fits(self, columns: Sequence[np.ndarray]) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return sum(column.nbytes for column in columns) < free * _SPARE_DEVICE_MEMORY

    @property
    def on_device(self) -> bool:
        """Whether the data is where batches are wanted, so that a batch needs no copy."""
        return self._home == self.device

    def place(self, index: WindowIndex) -> tuple[Tensor, Tensor]:
        """Return an index as `gather_at` takes it, where the columns are."""
        return torch.from_numpy(index.rows).to(self._home), torch.from_numpy(index.trajectories).to(self._home)

    def gather(self, index: WindowIndex) -> WindowBatch:
        """Return the windows at ``index``."""
        return self.gather_at(*self.place(index))

    def gather_at(self, rows: Tensor, trajectories: Tensor) -> WindowBatch:
        """Return the windows that begin at ``rows`` (B,) of the data, in the episodes ``trajectories`` (B,).

        What stands in padded places is the last real step again: causality hides it from every
        prediction and the loss leaves it out, so its content never matters.
        """
        first, last = self._offsets[trajectories][:, None], self._offsets[trajectories + 1][:, None] - 1
        wanted = rows[:, None] + self._steps
        at = torch.minimum(wanted, last)
        timesteps = torch.clamp(at - first, max=self.max_timesteps - 1)
        conditions = [self._take(c, at) / scale for c, scale in zip(self._conditions, self._scales, strict=True)]
        stacked = at.new_zeros(*at.shape, 0, dtype=torch.float32)
        if conditions:
            stacked = conditions[0][..., None] if len(conditions) == 1 else torch.stack(conditions, dim=-1)
        return WindowBatch(
            states=self._scaling.observations(self._stack_frames(at, first).to(self.device)),
            actions=self._scaling.actions(self._take(self._actions, at).to(self.device)),
            conditions=stacked.to(self.device),
            timesteps=timesteps.to(self.device),
            valid_mask=(wanted <= last).to(self.device),
        )

    @staticmethod
    def _take(column: Tensor, rows: Tensor) -> Tensor:
        return column.index_select(0, rows.view(-1)).view(*rows.shape, *column.shape[1:])

    def _stack_frames(self, rows: Tensor, first: Tensor) -> Tensor:
        if self.frame_stack == 1:
            return self._take(self._observations, rows)
        ages = range(self.frame_stack - 1, -1, -1)
        return torch.cat([self._take(self._observations, torch.maximum(rows - age, first)) for age in ages], dim=2)
