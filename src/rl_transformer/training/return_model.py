"""Train a return model, and label data with the returns that it expects.

Shapes: N steps of data, E episodes, X some of them, T timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_transformer.conditions import ReturnToGo
from rl_transformer.config import TrainingConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models.return_model import AFTER_ACTION, ReturnModel
from rl_transformer.policy.gatherer import condition_column
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.training.cuda_graph import make_updates
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.losses import masked_mean
from rl_transformer.training.metrics import Metrics
from rl_transformer.training.trainer import Trainer, fit
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowGatherer, WindowSource
from rl_transformer.windows.sampling import WindowIndex

_WINDOWS_AT_ONCE = 512  # bounds the memory of labelling, whatever the size of the data


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

    If the run was interrupted before, training continues from the newest checkpoint in ``folder``. At the end the model
    is in evaluation mode, holds the EMA if there is one, and is frozen.

    Args:
        model: The return model.
        training: Options of the optimization.
        windows: The policy's windows; their conditions are replaced by the return-to-go.
        dataset: The data.
        returns: The definition of the return.
        folder: Folder for checkpoints and metrics.
        group: The processes that train together.

    Raises:
        Interrupted: SIGTERM or SIGINT, after a checkpoint was saved.
        RLTransformerError: A loss or gradient is not finite.
    """
    # The policy's sampler may draw rare returns more often than they occur (windows.return_balance). The model's
    # expectation would then be biased towards them, so its own windows are drawn uniformly over timesteps.
    labelled = windows.gatherer.with_conditions([condition_column(returns, dataset)])
    source = replace(windows, sampler=windows.sampler.without_balance(), gatherer=labelled)
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
    # Frozen: the policy's trainer must not update it, and the stored policy must be the model that labelled the data.
    model.eval().requires_grad_(False)


def return_loss(
    model: ReturnModel, batch: WindowBatch, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean cross-entropy (nats) of the returns-to-go, the batch's only condition; a `Loss`."""
    log_probabilities = model(batch.states, batch.actions, batch.timesteps)
    return masked_mean(model.loss(log_probabilities, batch.conditions[..., 0]), batch.valid_mask, num_valid)


@torch.inference_mode()
def predicted_returns(
    model: ReturnModel,
    gatherer: WindowGatherer,
    offsets: np.ndarray,
    *,
    when: int = AFTER_ACTION,
    episodes: np.ndarray | None = None,
) -> np.ndarray:
    """Return the expected return-to-go at every step of the data.

    After the action it is E[R_t | history, a_t], the value of the action averaged over the chance events that followed.
    A policy labelled with the realized return would instead learn to expect good luck (Paster et al. 2022).

    Args:
        model: A trained return model.
        gatherer: Gathers the windows; a step is predicted from as much of its history as a window holds.
        offsets: (E + 1,) rows at which episodes begin.
        when: BEFORE_ACTION or AFTER_ACTION.
        episodes: (X,) indices of the episodes to predict; None: all of them.

    Returns:
        (N,) float64, divided by the return scale; NaN in other episodes than ``episodes``.
    """
    expected = np.full(int(offsets[-1]), np.nan)
    chosen = np.arange(len(offsets) - 1) if episodes is None else episodes
    for index in _windows(offsets, chosen, gatherer.window_length):
        batch = gatherer.gather(index)
        values = model.expected(model(batch.states, batch.actions, batch.timesteps)[:, :, when]).cpu().numpy()
        first = index.rows == offsets[index.trajectories]
        # Windows overlap, but every step is predicted once, with the longest history there is: an episode's first
        # window predicts all of its steps, and every later one only its last step.
        is_last = np.arange(values.shape[1]) == values.shape[1] - 1
        is_used = batch.valid_mask.cpu().numpy() & (first[:, None] | is_last)
        rows = index.rows[:, None] + np.arange(values.shape[1])
        expected[rows[is_used]] = values[is_used]
    return expected


def cross_fitted_returns(
    model: ReturnModel,
    windows: WindowSource,
    offsets: np.ndarray,
    folds: int,
    fit_fold: Callable[[int, WindowSource], ReturnModel],
) -> np.ndarray:
    """Return the expected return-to-go at every step; no training episode is labelled by a model that learned from it.

    A model that has seen how an episode ended can remember it: with 300 episodes its labels would follow the luck that they
    should average out (cross-fitting: Chernozhukov et al. 2018).

    Args:
        model: A return model that learned from all training episodes. It labels the others.
        windows: The policy's windows, whose sampler knows the training episodes.
        offsets: (E + 1,) rows at which episodes begin.
        folds: Parts of the training episodes; 1 lets ``model`` label all of them.
        fit_fold: Returns the model of a fold: a function of its number and of the windows to learn from.

    Returns:
        (N,) float64, divided by the return scale.

    Raises:
        RLTransformerError: There are fewer episodes than folds.
    """
    trained = np.sort(windows.sampler.trajectories)
    if folds == 1:
        return predicted_returns(model, windows.gatherer, offsets)
    if len(trained) < folds:
        raise RLTransformerError(
            f"{len(trained)} episodes cannot be labelled in {folds} parts",
            where="returns.folds",
            fix="record more episodes, or set it to 1: the model then labels the episodes it was trained on, and fits their luck, too",
        )
    expected = np.full(int(offsets[-1]), np.nan)
    others = np.setdiff1d(np.arange(len(offsets) - 1), trained)
    parts = [(model, others)] if len(others) else []
    shuffled = generator(Stream.RETURN_FOLDS, windows.sampler.seed).permutation(trained)
    for fold, part in enumerate(np.array_split(shuffled, folds)):
        rest = replace(windows, sampler=windows.sampler.only(np.setdiff1d(trained, part)))
        parts.append((fit_fold(fold, rest), np.sort(part)))
    for labelling, episodes in parts:
        labels = predicted_returns(labelling, windows.gatherer, offsets, episodes=episodes)
        expected = np.where(np.isnan(labels), expected, labels)
    return expected


def _windows(offsets: np.ndarray, episodes: np.ndarray, length: int) -> Iterator[WindowIndex]:
    """Yield every window of ``length`` steps of some episodes, a few hundred at a time; short episodes have one."""
    lengths = np.diff(offsets)[episodes]
    counts = np.maximum(lengths - length, 0) + 1  # windows per episode
    # Window k of an episode begins k rows after the episode does; k restarts at 0 where a new episode's windows begin.
    trajectories = np.repeat(episodes, counts)
    ends = np.cumsum(counts)
    rows = offsets[trajectories] + np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // _WINDOWS_AT_ONCE)):
        yield WindowIndex(rows[part], trajectories[part])
