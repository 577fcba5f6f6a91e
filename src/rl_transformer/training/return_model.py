"""Training a model of returns, and labelling data with the returns it expects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.return_model import AFTER_ACTION, ReturnModel
from rl_transformer.training.loop import Trainer
from rl_transformer.training.losses import masked_mean
from rl_transformer.training.metrics import Metrics
from rl_transformer.training.ranks import Ranks
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gather import WindowBatch, WindowGatherer
from rl_transformer.windows.sampling import WindowIndex, WindowSampler

_WINDOWS_AT_ONCE = 512


def return_bins(returns_to_go: np.ndarray, count: int) -> tuple[float, float, int]:
    """Return the smallest and largest return-to-go and the number of values for a model of returns.

    Raises:
        RLTransformerError: All returns are the same.
    """
    low, high = float(returns_to_go.min()), float(returns_to_go.max())
    if low == high:
        raise RLTransformerError(
            f"every return-to-go of the data is {low:g} (scaled): there is nothing to predict",
            where="returns",
            fix="leave returns.predict, returns.label and policy.target at their defaults",
        )
    return low, high, count


def fit_return_model(
    model: ReturnModel,
    config: RunConfig,
    sampler: WindowSampler,
    gatherer: WindowGatherer,
    folder: Path,
    dataset: TrajectoryDataset,
    ranks: Ranks,
) -> None:
    """Train a model of returns in place, with the options and the windows' seed of the policy's training.

    Windows are drawn uniformly over timesteps whatever the policy's sampler does: returns drawn more
    often than they happen would not be expected returns. A stopped run continues from its newest
    checkpoint in ``folder``.
    """
    trainer = Trainer(
        model=model,
        sampler=sampler.over_timesteps(),
        gatherer=gatherer,
        config=config.training,
        folder=folder,
        metrics=Metrics(folder),
        dataset_fingerprint=dataset.fingerprint,
        loss=return_loss,
        ranks=ranks,
    )
    trainer.resume()
    trainer.fit()
    if trainer.average is not None:
        trainer.average.swap()
    model.eval().requires_grad_(False)


def return_loss(
    model: ReturnModel, batch: WindowBatch, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean loss of the returns-to-go over the real steps of all windows; arguments as in `action_loss`."""
    predicted = model(batch.states, batch.actions, batch.timesteps)
    return masked_mean(model.loss(predicted, batch.conditions[..., 0]), batch.valid_mask, num_valid)


@torch.inference_mode()
def predicted_returns(
    model: ReturnModel, gatherer: WindowGatherer, offsets: np.ndarray, *, when: int = AFTER_ACTION
) -> np.ndarray:
    """Return the expected return-to-go at every step of the data: (N,) float64, scaled.

    With ``when`` AFTER_ACTION it is E[R_t | history, a_t]: what the action was worth, whatever luck
    followed. Each step is judged by as much of its history as a window holds.
    """
    expected = np.empty(int(offsets[-1]))
    for index in _windows(offsets, gatherer.window_length):
        batch = gatherer.gather(index)
        values = model.expected(model(batch.states, batch.actions, batch.timesteps)[:, :, when]).cpu().numpy()
        first = index.rows == offsets[index.trajectories]
        # A window that begins with its episode is read whole, any other at its last step only.
        read = batch.valid_mask.cpu().numpy() & (first[:, None] | (np.arange(values.shape[1]) == values.shape[1] - 1))
        rows = index.rows[:, None] + np.arange(values.shape[1])
        expected[rows[read]] = values[read]
    return expected


def _windows(offsets: np.ndarray, length: int) -> Iterator[WindowIndex]:
    lengths = np.diff(offsets)
    counts = np.maximum(lengths - length, 0) + 1  # windows of each episode
    trajectories = np.repeat(np.arange(len(lengths)), counts)
    ends = np.cumsum(counts)
    rows = offsets[trajectories] + np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _WINDOWS_AT_ONCE)):
        yield WindowIndex(rows[part], trajectories[part])
