"""Training a return model, and labelling data with the returns it expects.

Shapes: N steps of data, T timesteps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_transformer.conditions import ReturnToGo
from rl_transformer.config import TrainingConfig
from rl_transformer.models.return_model import AFTER_ACTION, ReturnModel
from rl_transformer.policy.gatherer import condition_column
from rl_transformer.training.cuda_graph import make_updates
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.losses import masked_mean
from rl_transformer.training.metrics import Metrics
from rl_transformer.training.trainer import Trainer, fit
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowGatherer, WindowSource
from rl_transformer.windows.sampling import WindowIndex

_WINDOWS_AT_ONCE = 512


def fit_return_model(
    model: ReturnModel,
    training: TrainingConfig,
    windows: WindowSource,
    dataset: TrajectoryDataset,
    returns: ReturnToGo,
    folder: Path,
    group: ProcessGroup,
) -> None:
    """Train a return model in place, with the options and the seed of the policy's training.

    Windows are drawn uniformly over timesteps whatever the policy's sampler does: returns that are drawn more
    often than they happened would not be expected returns. A run that was stopped continues from the newest
    checkpoint in ``folder``.

    Args:
        model: The return model.
        training: Options of the optimization.
        windows: The policy's windows; their conditions are replaced by the return-to-go.
        dataset: The data.
        returns: What a return is.
        folder: Folder for checkpoints and metrics.
        group: The processes that train together.
    """
    labelled = windows.gatherer.with_conditions([condition_column(returns, dataset)])
    source = WindowSource(windows.sampler.without_balance(), labelled, windows.batch_size)
    trainer = Trainer(
        model=model,
        batches=source,
        config=training,
        folder=folder,
        metrics=Metrics(folder),
        data_fingerprint=dataset.fingerprint,
        loss=return_loss,
        group=group,
    )
    trainer.resume()
    fit([trainer], make_updates(trainer))
    if trainer.ema is not None:
        trainer.ema.swap()
    model.eval().requires_grad_(False)


def return_loss(
    model: ReturnModel, batch: WindowBatch, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean loss of the returns-to-go, the batch's only condition; a `Loss`."""
    log_probabilities = model(batch.states, batch.actions, batch.timesteps)
    return masked_mean(model.loss(log_probabilities, batch.conditions[..., 0]), batch.valid_mask, num_valid)


@torch.inference_mode()
def predicted_returns(
    model: ReturnModel, gatherer: WindowGatherer, offsets: np.ndarray, *, when: int = AFTER_ACTION
) -> np.ndarray:
    """Return the expected return-to-go at every step of the data: (N,) float64, scaled.

    With ``when`` AFTER_ACTION it is E[R_t | history, a_t]: the value of the action, averaged over the luck that
    followed it. Each step is predicted from as much of its history as a window holds.
    """
    expected = np.empty(int(offsets[-1]))
    for index in _windows(offsets, gatherer.window_length):
        batch = gatherer.gather(index)
        values = model.expected(model(batch.states, batch.actions, batch.timesteps)[:, :, when]).cpu().numpy()
        first = index.rows == offsets[index.trajectories]
        # Every step is predicted once, with the longest history: in a window that begins with its episode at all
        # steps, in any other at the last step only.
        is_last = np.arange(values.shape[1]) == values.shape[1] - 1
        read = batch.valid_mask.cpu().numpy() & (first[:, None] | is_last)
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
