"""Define the strategies by which the training loop makes gradient updates.

`EagerUpdates` makes one update after the other, on any device and in any number of processes. The strategies of
`cuda_graph` and `stacked_seeds` make blocks of updates without waiting for the CPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rl_transformer.config import TrainingConfig
from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.runtime.signals import STOP_SIGNALS, StopSignals
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.ema import EMA
from rl_transformer.training.optimizer import learning_rate, set_learning_rates
from rl_transformer.windows.batch import BatchSource


class TrainingState(Protocol):
    """Describes the part of a `Trainer` that eager updates use."""

    batches: BatchSource[Any, Any]
    config: TrainingConfig
    group: ProcessGroup
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    signals: StopSignals

    def backward(self, step: int | None, batch: object, num_valid: float | None) -> tuple[Tensor, Tensor]:
        """Compute the clipped gradients of a batch; return the loss and the gradient norm before clipping."""
        ...


class UpdateResult(NamedTuple):
    """Holds the loss and the gradient norm of one update of one run."""

    loss: float
    gradient_norm: float
    """Before clipping."""

    @property
    def is_finite(self) -> bool:
        """False if the update was not made, because its loss or gradient was not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Updates(Protocol):
    """Makes updates of one or several runs.

    Contract: if the loss or gradient of an update is not finite, neither this update nor any later one of the same call
    changes a weight. The weights at the failure can therefore be inspected, and the newest checkpoint stays valid.
    """

    max_steps: int
    """Largest ``count`` that `run` accepts."""

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make updates ``first`` ... ``first + count - 1``; return one result per step and run."""
        ...


class EagerUpdates:
    """Makes the updates of one run one at a time."""

    max_steps = 1

    def __init__(self, trainer: TrainingState) -> None:
        self._trainer = trainer

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make ``count`` updates, and stop after one that is not finite."""
        results: list[list[UpdateResult]] = []
        for step in range(first, first + count):
            results.append([self._update(step)])
            if not results[-1][0].is_finite:
                break
        return results

    def _update(self, step: int) -> UpdateResult:
        """Make update ``step``; every random draw is a function of (seed, step)."""
        trainer = self._trainer
        config = trainer.config
        group = trainer.group
        index = trainer.batches.draw(step)
        batch = trainer.batches.gather(group.shard(index))
        # The loss of the global batch is its sum divided by its number of valid steps. DistributedDataParallel averages
        # the gradients of the shards instead of adding them, so each shard divides by that number / world_size.
        # Dividing by its own number would weight windows with much padding more than in a single process.
        num_valid = None if group.world_size == 1 else trainer.batches.count_valid(index) / group.world_size
        with dropout_masks(config.seed, step, trainer.batches.device, group.rank):
            loss, norm = trainer.backward(step, batch, num_valid)
        result = UpdateResult(self._global_loss(loss), norm.item())
        # Checked before the optimizer step: one update with NaN would make every weight and moment NaN.
        if not result.is_finite:
            return result
        set_learning_rates(trainer.optimizer, learning_rate(step, config))
        trainer.optimizer.step()
        if trainer.ema is not None:
            trainer.ema.update(trainer.ema.weight(step))
        return result

    def _global_loss(self, loss: Tensor) -> float:
        """Return the loss of the global batch; a stop signal to any process reaches all of them with it."""
        group = self._trainer.group
        signals = self._trainer.signals
        if group.world_size == 1:
            return loss.item()
        # Processes get signals at different times. If each looked at its own flag, one would stop after an update and
        # the others would wait for it in the next all-reduce. Sharing the flag with the loss costs no extra exchange.
        flags = [float(signals.received == number) for number in STOP_SIGNALS]
        total, *counts = group.all_reduce_sum(loss, *flags).tolist()
        if any(counts):
            signals.received = next(number for number, count in zip(STOP_SIGNALS, counts, strict=True) if count)
        return total / group.world_size
