"""Provide windows of trajectories for a training loop of your own.

Shapes: B windows, T timesteps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rl_transformer.conditions import ReturnToGo
from rl_transformer.conditions.interface import power_of_ten_scale
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.heads import default_head
from rl_transformer.policy.gatherer import condition_column
from rl_transformer.policy.spec import sizes_from_spaces
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.sampling import WindowSampler
from rl_transformer.windows.selection import split_trajectories

Batch = dict[str, Tensor]
"""Arguments of a Decision Transformer's `forward` by name, so that ``model(**batch)`` works."""


class Dataset(torch.utils.data.Dataset[Batch]):
    """A map-style dataset of all windows: item i begins at timestep i and has up to ``context_length`` timesteps.

    An item is a dict of tensors: ``states`` (T, D) normalized or uint8 images, ``actions`` (T, ...) as
    indices, or vectors that are scaled to [-1, 1] if the action space has finite bounds, ``rewards`` (T, 1), ``returns_to_go`` (T, 1) scaled, ``timesteps`` (T,), and ``attention_mask`` (T,), 1 at
    real timesteps and 0 at padded ones, which come last.

    Args:
        path: A data URI such as ``minari:NAMESPACE/NAME-v0``, the folder of a store, or an open dataset.
        split: Use only the episodes of this split, train or validation; None: all episodes.
        validation_fraction: Fraction of episodes in the validation split.
        context_length: T.
        return_scale: Divisor of returns; None: the power of ten at or below the largest return.
        frame_stack: Images per state.
        seed: Seed of the split.

    Raises:
        RLTransformerError: The data cannot be read or would corrupt training, or a split has no episodes.
    """

    def __init__(
        self,
        path: str | Path | TrajectoryDataset,
        *,
        split: Literal["train", "validation"] | None = None,
        validation_fraction: float = 0.2,
        context_length: int = 20,
        return_scale: float | None = None,
        frame_stack: int = 1,
        seed: int = 0,
    ) -> None:
        self.data = path if isinstance(path, TrajectoryDataset) else open_trajectories(path)
        self.context_length = context_length
        self.frame_stack = frame_stack
        scale = power_of_ten_scale(self.data.episode_returns) if return_scale is None else return_scale
        self.returns = ReturnToGo(scale=scale)
        self.is_squashed = self._has_finite_bounds()
        # Statistics of all episodes, not of the split, so that training and validation have the same units.
        self.normalizer = Normalizer.from_data(self.data.spec, self.data.statistics, action_tanh=self.is_squashed)
        episodes = self._episodes(split, validation_fraction, seed)
        self._windows = WindowSampler(self.data.offsets, episodes, seed=seed)
        self._gatherer = WindowGatherer(
            self.data,
            conditions=[condition_column(self.returns, self.data)],
            window_length=context_length,
            max_timesteps=int(self.data.lengths.max()),
            normalizer=self.normalizer,
            frame_stack=frame_stack,
        )

    def __len__(self) -> int:
        return self._windows.num_steps

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # iterating over a sequence without __iter__ ends with this exception
        batch = self.gather(np.array([index % len(self)]))
        return {name: tensor[0] for name, tensor in batch.items()}

    def gather(self, indices: np.ndarray) -> Batch:
        """Return the windows ``indices`` (B,) as one batch: tensors as in an item, with a leading axis B."""
        # One indexing operation per column for the whole batch, instead of one per window and column.
        batch = self._gatherer.gather(self._windows.locate(indices), extra=("rewards",))
        assert batch.rewards is not None
        return {
            "states": batch.states,
            "actions": batch.actions,
            "rewards": batch.rewards[..., None],
            "returns_to_go": batch.conditions,
            "timesteps": batch.timesteps,
            "attention_mask": batch.valid_mask.long(),
        }

    def model_options(self) -> JsonObject:
        """Return the fields of a `DecisionTransformerConfig` that follow from the data."""
        # Sizes that a user would otherwise have to look up. They are the ones that `rl_transformer.train` uses.
        return {
            **sizes_from_spaces(self.data.spec, self.frame_stack),
            "action_head": default_head(self.data.spec.action_space.kind),
            "action_tanh": self.is_squashed,
            "max_ep_len": int(self.data.lengths.max()),
        }

    def _has_finite_bounds(self) -> bool:
        """Return True if the action space is discrete or has finite bounds."""
        # Vectors are scaled to [-1, 1] by their bounds, which is possible only if these are finite.
        space = self.data.spec.action_space
        return not space.is_continuous or all(np.isfinite(bound).all() for bound in space.bounds)

    def _episodes(self, split: str | None, fraction: float, seed: int) -> np.ndarray:
        """Return the indices of the split's episodes."""
        # Whole episodes are split: overlapping windows of one episode in both parts would make the validation loss too
        # low.
        if split is None:
            return np.arange(self.data.num_trajectories)
        if split not in ("train", "validation") or not 0 < fraction < 1:
            raise RLTransformerError(
                f"split {split!r} with a validation fraction of {fraction}",
                where="Dataset",
                fix="use split train or validation, and a fraction between 0 and 1",
            )
        train, validation = split_trajectories(self.data.num_trajectories, fraction, seed=seed)
        return train if split == "train" else validation


class BatchSampler:
    """Yields shuffled batches of a `Dataset`; iterating over it once is one epoch.

    Every batch has ``batch_size`` windows (or all, if there are fewer). Windows that remain at the end of an epoch are
    skipped; they are other ones in every epoch. A batch is gathered at once, which is much faster than a `DataLoader`.

    Args:
        dataset: Dataset to draw from.
        batch_size: Windows per batch.
        seed: Seed of the order.

    Raises:
        RLTransformerError: The batch size is not positive.
    """

    def __init__(self, dataset: Dataset, batch_size: int = 32, *, seed: int = 0) -> None:
        if batch_size < 1:
            raise RLTransformerError(f"{batch_size} is not positive", where="batch_size", fix="give 1 or more")
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset))
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        # A function of (seed, epoch), so that a loop can repeat or resume any epoch by setting `epoch`.
        order = generator(Stream.EPOCH_ORDER, self.seed, self.epoch).permutation(len(self.dataset))
        self.epoch += 1
        for number in range(len(self)):
            yield self.dataset.gather(order[number * self.batch_size : (number + 1) * self.batch_size])
