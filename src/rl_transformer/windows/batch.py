"""What one update learns from: windows as tensors, and where batches come from.

Shapes: B windows, T timesteps, C numbers of all conditions together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowBatch:
    """Windows in the model's units, left-aligned: padding follows the last real step."""

    states: Tensor
    """(B, T, D) float32 normalized, or (B, T, channels, height, width) uint8."""
    actions: Tensor
    """(B, T, A) float32, or (B, T) or (B, T, P) int64."""
    conditions: Tensor
    """(B, T, C) float32, scaled; the conditions of the policy one after the other."""
    timesteps: Tensor
    """(B, T) int64, counted from the start of the episode."""
    valid_mask: Tensor
    """(B, T) bool, True at real steps."""
    rewards: Tensor | None = None
    """(B, T) float32, not scaled. This and the following are gathered on request."""
    terminations: Tensor | None = None
    """(B, T) bool, True at the step that terminated its episode."""
    next_states: Tensor | None = None
    """(B, T, ...) the states one step later; at an episode's last step its final observation."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of a model's `predict_actions`."""
        return self.states, self.actions, self.conditions, self.timesteps


class Index(Protocol):
    """Names the items of one batch; processes that train together take slices of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, items: slice, /) -> Any: ...


IndexT = TypeVar("IndexT", bound=Index)
BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchSource(Protocol[IndexT, BatchT_co]):
    """Where the trainer gets its batches: windows of trajectories, text, random sequences.

    Drawing is a pure function of the step, so that a resumed run and a run of several processes see
    the batches of an uninterrupted run of one process.
    """

    @property
    def device(self) -> torch.device:
        """Where batches are put."""
        ...

    def draw(self, step: int) -> IndexT:
        """Return the items of update ``step``, for all processes together."""
        ...

    def gather(self, index: IndexT) -> BatchT_co:
        """Return the batch of these items on the device."""
        ...

    def count_valid(self, index: IndexT) -> int:
        """Return how many predictions these items have: what their summed loss is divided by."""
        ...

    def describe(self, index: IndexT) -> str:
        """Return where these items come from, for the message about a loss that is not finite."""
        ...
