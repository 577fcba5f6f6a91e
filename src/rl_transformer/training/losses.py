"""Losses of a batch of windows, over real steps only.

Shapes: B windows, T timesteps, A length of an action vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.config import TrainingConfig
from rl_transformer.models import PolicyModel
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowSampler

_VALIDATION_WINDOWS = 2_000


class Loss(Protocol):
    """What is minimized."""

    def __call__(self, model: Any, batch: Any, *, step: int | None, num_valid: float | None) -> Tensor:
        """Return a scalar.

        Args:
            model: The network that is trained.
            batch: From the `BatchSource`; one process's share of the global batch.
            step: Number of the update; None inside a captured CUDA graph, where it is a tensor.
            num_valid: What the summed loss is divided by, if the batch is a share of a larger one.
        """
        ...


class TrainingObjective(nn.Module):
    """Model and loss as one module: what data-parallel training wraps, and what the optimizer trains.

    A loss may have parameters of its own, such as the language modeling head of co-training.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, step: int | None, batch: Any, num_valid: float | None) -> Tensor:
        return self.loss(self.model, batch, step=step, num_valid=num_valid)


def masked_mean(values: Tensor, valid_mask: Tensor, num_valid: float | None = None) -> Tensor:
    """Return sum(valid * values) / sum(valid): padding has no weight at all, not even in the divisor.

    Args:
        values: (B, T).
        valid_mask: (B, T) bool, True at real steps.
        num_valid: The divisor, if these values are a share of a larger batch.
    """
    return torch.where(valid_mask, values, 0.0).sum() / (valid_mask.sum() if num_valid is None else num_valid)


def action_loss(
    model: PolicyModel,
    batch: WindowBatch,
    *,
    num_valid: float | None = None,
    parameters: Tensor | None = None,
    entropy_weight: float = 0.0,
    normals: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of the logged actions over the real steps of all windows.

    Args:
        model: Any policy model.
        batch: Windows.
        num_valid: The divisor, if these windows are a share of a larger batch.
        parameters: The action head's parameters for these windows, if they are computed already.
        entropy_weight: Weight of the entropy bonus, for heads that have one.
        normals: (B, T, A) standard normal numbers for the entropy estimate.
    """
    head = model.predict_action
    if parameters is None:
        parameters = model.predict_actions(*batch.inputs)
    parameters = parameters.float()
    losses = head.loss(parameters, batch.actions)
    if entropy_weight and normals is not None:
        losses = losses - entropy_weight * head.entropy(parameters, normals)
    return masked_mean(losses, batch.valid_mask, num_valid)


@dataclass(frozen=True)
class ActionLoss:
    """`action_loss` with the options of a run, as a `Loss`."""

    config: TrainingConfig
    group: ProcessGroup = ProcessGroup()  # noqa: RUF009  immutable

    def __call__(self, model: PolicyModel, batch: WindowBatch, *, step: int | None, num_valid: float | None) -> Tensor:
        weight = self.config.entropy_weight
        normals = self._normals(step, batch) if weight else None
        return action_loss(model, batch, num_valid=num_valid, entropy_weight=weight, normals=normals)

    def _normals(self, step: int | None, batch: WindowBatch) -> Tensor:
        """Draw for the global batch and return this process's share, so that processes do not repeat each other."""
        assert step is not None  # captured CUDA graphs have no entropy bonus
        random = generator(Stream.ENTROPY, self.config.seed, step)
        shape = (self.config.batch_size, *batch.actions.shape[1:])
        everyone = random.standard_normal(shape, dtype=np.float32)
        share = everyone[self.group.slice_of(self.config.batch_size)]
        return torch.from_numpy(share).to(batch.actions.device)


@torch.inference_mode()
def action_error(model: PolicyModel, batch: WindowBatch) -> tuple[float, int]:
    """Return the summed error of greedy actions over real steps, and the number of these steps.

    The error of a step is the mean absolute difference, or 1 for another discrete action.
    """
    parameters = model.predict_actions(*batch.inputs).float()
    errors = model.predict_action.error(parameters, batch.actions)
    return float(torch.where(batch.valid_mask, errors, 0.0).sum()), int(batch.valid_mask.sum())


@dataclass(frozen=True)
class HeldOutError:
    """The mean error of greedy actions on evenly spread windows of held-out episodes, as an `Evaluation`."""

    model: PolicyModel
    sampler: WindowSampler
    gatherer: WindowGatherer
    batch_size: int

    def __call__(self, step: int, check: object) -> dict[str, float]:
        count = min(_VALIDATION_WINDOWS, self.sampler.num_steps)
        steps = np.linspace(0, self.sampler.num_steps - 1, count).astype(np.int64)
        total = 0.0
        num_steps = 0
        for part in np.array_split(steps, -(-count // self.batch_size)):
            error, valid = action_error(self.model, self.gatherer.gather(self.sampler.locate(part)))
            total += error
            num_steps += valid
        return {"validation_action_error": total / num_steps}
