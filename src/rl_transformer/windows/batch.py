"""A batch of windows as tensors, and the interface of the sources of batches.

Shapes: B windows, T timesteps, C numbers of all conditions, A length of an action vector, P parts of a discrete action, M length of a
legal-action mask;
*state are the axes of one observation: one of a vector, three of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from rl_transformer.runtime.shapes import Bool, Float, Int, UInt8


@dataclass(frozen=True)
class WindowBatch:
    """Windows in the model's units, left-aligned: padding follows the last real step."""

    states: Float[Tensor, "B T *state"] | UInt8[Tensor, "B T *state"]
    """Normalized vectors, or images."""
    actions: Float[Tensor, "B T A"] | Int[Tensor, "B T"] | Int[Tensor, "B T P"]
    """Vectors, or indices, one for each part of a multi-discrete action."""
    conditions: Float[Tensor, "B T C"]
    """The conditions of the policy one after the other, scaled."""
    timesteps: Int[Tensor, "B T"]
    """Timesteps, counted from the start of the episode."""
    valid_mask: Bool[Tensor, "B T"]
    """True at real steps, False at padding."""
    allowed: Bool[Tensor, "B T M"] | None = None
    """True at the discrete actions that were legal, if the data records it."""
    rewards: Float[Tensor, "B T"] | None = None
    """Rewards, not scaled. This field and the following ones are gathered on request."""
    terminations: Bool[Tensor, "B T"] | None = None
    """True at the step that terminated its episode."""
    next_states: Float[Tensor, "B T *state"] | UInt8[Tensor, "B T *state"] | None = None
    """The states one step later; at an episode's last step its final observation."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of a model's `predict_actions`."""
        return self.states, self.actions, self.conditions, self.timesteps


class Index(Protocol):
    """Selects the items of one batch; processes that train together each take a slice of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, items: slice, /) -> Self: ...


IndexT = TypeVar("IndexT", bound=Index)
BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchSource(Protocol[IndexT, BatchT_co]):
    """A source of batches for the trainer: windows of trajectories, text, or random sequences.

    Drawing is a pure function of the step, so that a resumed run and a run of several processes see
    the batches of an uninterrupted run of one process.
    """

    @property
    def device(self) -> torch.device:
        """Return the device of the batches."""
        ...

    def draw(self, step: int) -> IndexT:
        """Return the items of update ``step``, for all processes together."""
        ...

    def gather(self, index: IndexT) -> BatchT_co:
        """Return the batch of these items on the device."""
        ...

    def count_valid(self, index: IndexT) -> int:
        """Return the number of predictions in these items, by which their summed loss is divided."""
        ...

    def describe(self, index: IndexT) -> str:
        """Return where these items come from, for the error message about a loss that is not finite."""
        ...
