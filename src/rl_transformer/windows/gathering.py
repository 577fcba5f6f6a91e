"""Gather the windows of a batch on the device, with one index operation per column of the data.

Shapes: B windows, T timesteps, N steps of data, W numbers of one condition, C numbers of all conditions; *state are the
axes of one observation, *row those of one in the data, *item those of one row of a column. With wide spaces, R is the
length of a row and D that of a flat observation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Int, Shaped
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.sharded_column import Column
from rl_transformer.trajectories.wide_rows import WideLayout, row_shape, wide_layout
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.columns import read_ahead_of, take, to_device
from rl_transformer.windows.image_shift import draw_shifts, shift_batch
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowIndex, WindowSampler

_SPARE_DEVICE_MEMORY = 0.5  # leave half of a GPU to the model
_ON_REQUEST = ("rewards", "terminations", "next_states")


@dataclass(frozen=True)
class ConditionColumn:
    """One condition at every step of the data."""

    values: Float[Column, "N"] | Float[Column, "N W"]
    """Float32 values, not scaled."""
    scale: float
    """The model reads the values divided by this."""


class WindowGatherer:
    """Cuts windows out of a dataset's columns.

    On a CPU the (possibly memory-mapped) columns are read in place; they are moved to a GPU once if they fit.

    Args:
        dataset: The data.
        conditions: What the model is conditioned on, in its order.
        window_length: T.
        max_timesteps: Rows of the timestep table; later timesteps reuse the last row.
        normalizer: Converts observations and actions to the model's units.
        frame_stack: Images per state, the newest last; an episode's first image is repeated.
        device: The device of the batches.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        *,
        conditions: Sequence[ConditionColumn],
        window_length: int,
        max_timesteps: int,
        normalizer: Normalizer,
        frame_stack: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.window_length = window_length
        self.max_timesteps = max_timesteps
        self.frame_stack = frame_stack
        self._dataset = dataset
        self._normalizer = normalizer.to(self.device)
        # The data's home is where it is indexed. From the CPU, only what a batch needs is copied to the device.
        arrays = [dataset.observations, dataset.actions, *(condition.values for condition in conditions)]
        self._home = self.device if self._fits_on_device(arrays) else torch.device("cpu")
        space = dataset.spec.observation_space
        holds_rows = space.is_wide and dataset.observations.shape[1:] == row_shape(space)
        # Data on a disk is announced one update ahead. Otherwise every update would wait for its frames.
        self._read_ahead = read_ahead_of(dataset.observations) if self._home.type == "cpu" else None
        self._one_hot = OneHotRows(wide_layout(space), self.device) if holds_rows else None
        self._observations = to_device(dataset.observations, self._home)
        self._actions = to_device(dataset.actions, self._home)
        masks = dataset.action_masks
        self._masks = to_device(masks, self._home) if masks is not None else None
        self._offsets = torch.from_numpy(np.asarray(dataset.offsets)).to(self._home)
        self._steps = torch.arange(window_length, device=self._home)
        self._set_conditions(conditions)

    def with_conditions(self, conditions: Sequence[ConditionColumn]) -> WindowGatherer:
        """Return a gatherer of the same windows with other conditions; both share the data."""
        # A shallow copy: the columns are the memory, and gatherers never change.
        other = copy.copy(self)
        other._set_conditions(conditions)
        return other

    def _set_conditions(self, conditions: Sequence[ConditionColumn]) -> None:
        columns = (condition.values for condition in conditions)
        self._conditions = [to_device(column.reshape((len(column), -1)), self._home) for column in columns]
        self._scales = [condition.scale for condition in conditions]

    def _fits_on_device(self, columns: Sequence[Column]) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return sum(column.nbytes for column in columns) < free * _SPARE_DEVICE_MEMORY

    @property
    def on_device(self) -> bool:
        """Return True if the data is on the device of the batches, so that a batch needs no copy."""
        return self._home == self.device

    @property
    def reads_from_disk(self) -> bool:
        """Return True if `announce` has an effect."""
        return self._read_ahead is not None

    def announce(self, index: WindowIndex) -> None:
        """Let the system read the observations of the windows at ``index`` while something else is computed."""
        if self._read_ahead is None:
            return
        offsets = self._offsets.numpy()
        first = np.maximum(index.rows - (self.frame_stack - 1), offsets[index.trajectories])
        end = np.minimum(index.rows + self.window_length, offsets[index.trajectories + 1])
        for begin, stop in zip(first.tolist(), end.tolist(), strict=True):
            self._read_ahead.announce(begin, stop)

    def count_valid(self, index: WindowIndex) -> int:
        """Return the number of real steps in the windows at ``index``."""
        ends = self._offsets[torch.from_numpy(index.trajectories + 1).to(self._home)].cpu().numpy()
        return int(np.minimum(ends - index.rows, self.window_length).sum())

    def gather(self, index: WindowIndex, extra: Sequence[str] = ()) -> WindowBatch:
        """Return the windows at ``index``.

        Args:
            index: Where the windows begin, and how far their images are shifted.
            extra: Further fields of the batch: rewards, terminations and next_states.
        """
        rows = torch.from_numpy(index.rows).to(self._home)
        trajectories = torch.from_numpy(index.trajectories).to(self._home)
        batch = self.gather_at(rows, trajectories)
        if extra:
            batch = replace(batch, **self._gather_extra(rows, trajectories, extra))
        return batch if index.shifts is None else shift_batch(batch, torch.from_numpy(index.shifts).to(self.device))

    def gather_at(self, rows: Int[Tensor, "B"], trajectories: Int[Tensor, "B"]) -> WindowBatch:
        """Return the windows that begin at ``rows`` of the data, in the episodes ``trajectories``.

        Everything here is an operation on the device, so that a CUDA graph can contain it.
        """
        first = self._offsets[trajectories][:, None]
        last = self._offsets[trajectories + 1][:, None] - 1
        following = rows[:, None] + self._steps
        # Padding repeats the last real step: causality hides it from every prediction and the loss leaves it out, so
        # its content never matters.
        at = torch.minimum(following, last)  # (B, T) rows of the data
        timesteps = torch.clamp(at - first, max=self.max_timesteps - 1)
        return WindowBatch(
            states=self._to_states(self._stack_frames(at, first).to(self.device)),
            actions=self._normalizer.to_model_actions(take(self._actions, at).to(self.device)),
            conditions=self._gather_conditions(at).to(self.device),
            timesteps=timesteps.to(self.device),
            valid_mask=(following <= last).to(self.device),
            allowed=None if self._masks is None else take(self._masks, at).to(self.device),
        )

    def _gather_conditions(self, at: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Return all conditions at some rows, scaled."""
        # Divided after indexing: the columns may be memory-mapped, and a scaled copy of them would fill the memory.
        taken = [take(column, at) / scale for column, scale in zip(self._conditions, self._scales, strict=True)]
        if not taken:
            return at.new_zeros(*at.shape, 0, dtype=torch.float32)
        return taken[0] if len(taken) == 1 else torch.cat(taken, dim=-1)

    def _stack_frames(self, rows: Int[Tensor, "B T"], first: Int[Tensor, "B 1"]) -> Shaped[Tensor, "B T *state"]:
        """Return the observations at some rows; images come with the frames before them."""
        if self.frame_stack == 1:
            return take(self._observations, rows)
        # No frame comes from another episode: before the first one, it is repeated.
        ages = range(self.frame_stack - 1, -1, -1)
        return torch.cat([take(self._observations, torch.maximum(rows - age, first)) for age in ages], dim=2)

    def _gather_extra(
        self, rows: Int[Tensor, "B"], trajectories: Int[Tensor, "B"], names: Sequence[str]
    ) -> dict[str, Shaped[Tensor, "B T ..."]]:
        """Return the fields that policies do not need, but critics and offline evaluation do."""
        unknown = sorted(set(names) - set(_ON_REQUEST))
        if unknown:
            raise ValueError(f"{unknown} is not among {_ON_REQUEST}")
        first = self._offsets[trajectories][:, None]
        last = self._offsets[trajectories + 1][:, None] - 1
        at = torch.minimum(rows[:, None] + self._steps, last)
        columns: dict[str, Tensor] = {}
        # Read from the dataset each time: hardly any run needs them, so they take no place on the device.
        if "rewards" in names:
            rewards = to_device(self._dataset.rewards, torch.device("cpu"))
            columns["rewards"] = take(rewards, at.cpu()).float().to(self.device)
        if "terminations" in names:
            terminated = torch.from_numpy(np.asarray(self._dataset.summary.terminated)).to(self._home)
            columns["terminations"] = ((at == last) & terminated[trajectories][:, None]).to(self.device)
        if "next_states" in names:
            columns["next_states"] = self._next_states(at, first, last, trajectories)
        return columns

    def _next_states(
        self,
        at: Int[Tensor, "B T"],
        first: Int[Tensor, "B 1"],
        last: Int[Tensor, "B 1"],
        trajectories: Int[Tensor, "B"],
    ) -> Shaped[Tensor, "B T *state"]:
        """Return the states one step after the rows ``at``, whose episodes begin at ``first`` and end at ``last``."""
        finals = self._dataset.summary.final_observations
        if finals is None:
            raise RLTransformerError(
                "the data has no final observations, so the state after an episode's last step is unknown",
                where=self._dataset.location or "data",
                fix="record T + 1 observations per episode of T steps",
            )
        # One step later for every row but an episode's last, whose successor is stored apart from the steps.
        following = self._stack_frames(torch.minimum(at + 1, last), first)
        newest = torch.from_numpy(np.asarray(finals)).to(self._home)[trajectories][:, None]
        final = newest.expand(-1, at.shape[1], *[-1] * (newest.dim() - 2))
        if self.frame_stack > 1:  # the last frame_stack - 1 images, then the final one
            channels = newest.shape[2]
            final = torch.cat([self._stack_frames(at, first)[:, :, channels:], final], dim=2)
        is_last = (at == last).view(*at.shape, *[1] * (following.dim() - 2))
        return self._to_states(torch.where(is_last, final, following).to(self.device))

    def _to_states(self, recorded: Shaped[Tensor, "B T *row"]) -> Shaped[Tensor, "B T *state"]:
        """Return recorded observations in the model's units."""
        if self._one_hot is None:
            return self._normalizer.normalize(recorded)
        # In place: a batch of wide one-hot vectors takes hundreds of megabytes.
        return self._normalizer.normalize_in_place(self._one_hot.expand(recorded))


class OneHotRows:
    """Makes flat observations, with one-hot vectors, from rows that hold indices; see `trajectories.wide_rows`."""

    def __init__(self, layout: WideLayout, device: torch.device) -> None:
        self._flat_size = layout.flat_size
        self._number_columns = torch.from_numpy(layout.number_columns).to(device)
        self._number_features = torch.from_numpy(layout.number_features).to(device)
        self._index_columns = torch.from_numpy(layout.index_columns).to(device)
        self._first_features = torch.from_numpy(layout.first_features).to(device)

    def expand(self, rows: Float[Tensor, "B T R"]) -> Float[Tensor, "B T D"]:
        """Return one flat observation per row."""
        flat = rows.new_zeros(*rows.shape[:-1], self._flat_size)
        flat.index_copy_(-1, self._number_features, rows.index_select(-1, self._number_columns))
        ones = rows.index_select(-1, self._index_columns).long() + self._first_features
        return flat.scatter_(-1, ones, 1.0)


@dataclass(frozen=True)
class WindowSource:
    """Windows of trajectories as a `BatchSource`."""

    sampler: WindowSampler
    gatherer: WindowGatherer
    batch_size: int
    image_shift: int = 0
    """Pixels by which images are shifted at most (`rl_transformer.windows.image_shift`)."""

    @property
    def device(self) -> torch.device:
        """Return the device of the batches."""
        return self.gatherer.device

    def draw(self, step: int) -> WindowIndex:
        """Return the windows of update ``step``; data on a disk begins to be read for the next update."""
        index = self.sampler.draw(step, self.batch_size)
        if self.gatherer.reads_from_disk:
            self.gatherer.announce(self.sampler.draw(step + 1, self.batch_size))
        if not self.image_shift:
            return index
        # Drawn for the global batch, like the windows: processes that train together each take a slice of both.
        return replace(index, shifts=draw_shifts(self.sampler.seed, step, self.batch_size, self.image_shift))

    def gather(self, index: WindowIndex) -> WindowBatch:
        """Return the windows at ``index`` on the device."""
        return self.gatherer.gather(index)

    def count_valid(self, index: WindowIndex) -> int:
        """Return the number of real steps in the windows at ``index``."""
        return self.gatherer.count_valid(index)

    def describe(self, index: WindowIndex) -> str:
        """Return which episodes the windows come from."""
        episodes = sorted(set(index.trajectories.tolist()))
        more = " ..." if len(episodes) > 20 else ""
        return f"episodes {', '.join(map(str, episodes[:20]))}{more}"
