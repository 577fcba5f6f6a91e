"""How gradient updates are made: the strategies that the training loop is given.

`EagerUpdates` makes one after the other, on any device and in any number of processes; CUDA graphs and stacked
seeds (`cuda_graph`, `stacked_seeds`) make blocks of them without the CPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rl_transformer.config import TrainingConfig
from rl_transformer.models.trunk.dropout import dropout_masks
from rl_transformer.runtime.signals import StopSignals
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.training.ema import EMA
from rl_transformer.training.optimizer import learning_rate, set_learning_rates
from rl_transformer.windows.batch import BatchSource


class TrainingState(Protocol):
    """What eager updates need of a `Trainer`."""

    batches: BatchSource[Any, Any]
    config: TrainingConfig
    group: ProcessGroup
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    signals: StopSignals

    def backward(self, step: int | None, batch: Any, num_valid: float | None) -> tuple[Tensor, Tensor]:
        """Compute the clipped gradients of a batch; return the loss and the gradient norm before clipping."""
        ...


class UpdateResult(NamedTuple):
    """What one update of one run reports."""

    loss: float
    gradient_norm: float
    """Before clipping."""

    @property
    def is_finite(self) -> bool:
        """False for an update that was not made, because its loss or gradient was not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Updates(Protocol):
    """Makes updates of one or several runs.

    Contract: after an update with a loss or gradient that is not finite, neither it nor any later update of the
    same call changes a weight.
    """

    max_steps: int
    """The largest ``count`` that `run` takes."""

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make updates ``first`` ... ``first + count - 1``; return one result per step and run."""
        ...


class EagerUpdates:
    """Makes the updates of one run one at a time."""

    max_steps = 1

    def __init__(self, trainer: TrainingState) -> None:
        self._trainer = trainer

    def run(self, first: int, count: int) -> list[list[UpdateResult]]:
        """Make ``count`` updates, stopping after one that is not finite."""
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
        # DistributedDataParallel averages gradients over processes, hence the division by their number.
        num_valid = None if group.world_size == 1 else trainer.batches.count_valid(index) / group.world_size
        with dropout_masks(config.seed, step, trainer.batches.device, group.rank):
            loss, norm = trainer.backward(step, batch, num_valid)
        result = UpdateResult(self._global_loss(loss), norm.item())
        if not result.is_finite:
            return result
        set_learning_rates(trainer.optimizer, learning_rate(step, config))
        trainer.optimizer.step()
        if trainer.ema is not None:
            trainer.ema.update(trainer.ema.weight(step))
        return result

    def _global_loss(self, loss: Tensor) -> float:
        """Return the loss of the global batch; a signal to one process stops all of them after this update."""
        group = self._trainer.group
        signals = self._trainer.signals
        if group.world_size == 1:
            return loss.item()
        received = float(signals.received or 0)
        total, num_stopped, signal_sum = group.all_reduce_sum(loss, float(received > 0), received).tolist()
        if num_stopped:
            signals.received = round(signal_sum / num_stopped)
        return total / group.world_size
