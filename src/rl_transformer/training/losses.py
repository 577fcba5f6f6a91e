"""Compute losses and errors over the real steps of a batch of windows; padding never counts.

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
from rl_transformer.models.heads import ActionHead
from rl_transformer.models.heads.discrete import mask_logits
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.training.distributed import ProcessGroup
from rl_transformer.windows.batch import WindowBatch
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowSampler

# Enough windows for a stable mean at a small fraction of a training step's budget per evaluation.
_VALIDATION_WINDOWS = 2_000


class Loss(Protocol):
    """Computes the scalar that training minimizes."""

    def __call__(self, model: Any, batch: Any, *, step: int | None, num_valid: float | None) -> Tensor:
        """Return the loss, a scalar tensor.

        Args:
            model: The network that is trained.
            batch: A batch of the `BatchSource`: this process's shard of the global batch.
            step: Number of the update, from 1; None inside a captured CUDA graph, where no number is on the CPU.
            num_valid: Divisor of the summed loss if the batch is a shard of a larger one; None: its own valid steps.
        """
        ...


class TrainingObjective(nn.Module):
    """Combines model and loss into one module, which the optimizer trains and DistributedDataParallel wraps.

    A loss may have parameters of its own, such as the language modeling head of co-training. Wrapping only the model
    would leave their gradients unsynchronized between processes.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, step: int | None, batch: object, num_valid: float | None) -> Tensor:
        return self.loss(self.model, batch, step=step, num_valid=num_valid)


def masked_mean(values: Tensor, valid_mask: Tensor, num_valid: float | None = None) -> Tensor:
    """Return sum(valid * values) / sum(valid), so that padding has no influence, not even on the divisor.

    Args:
        values: (B, T).
        valid_mask: (B, T) bool, True at real steps.
        num_valid: Divisor if these values are a shard of a larger batch; None: their own number of valid steps.
    """
    # where() instead of a product: 0 * NaN is NaN, so a product would let padding spoil the sum.
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
    """Return the mean loss of the logged actions over the real steps of all windows (Chen et al. 2021, section 3).

    Args:
        model: Any policy model.
        batch: B windows.
        num_valid: Divisor if these windows are a shard of a larger batch.
        parameters: (B, T, ...) outputs of the action head, if the caller has already computed them.
        entropy_weight: Weight of the entropy bonus, for heads that have one.
        normals: (B, T, A) standard normal samples for the entropy estimate.

    Returns:
        A scalar. Its unit follows from the action head: squared error or nats.
    """
    head = model.predict_action
    if parameters is None:
        parameters = model.predict_actions(*batch.inputs)
    # Under autocast they are bfloat16, too coarse for a log-likelihood.
    parameters = legal_parameters(head, parameters.float(), batch)
    losses = head.loss(parameters, batch.actions)
    if entropy_weight and normals is not None:
        losses = losses - entropy_weight * head.entropy(parameters, normals)
    return masked_mean(losses, batch.valid_mask, num_valid)


def legal_parameters(head: ActionHead, parameters: Tensor, batch: WindowBatch) -> Tensor:
    """Return logits (B, T, M) with minus infinity at actions that were not legal, so that none is learned there.

    Data without masks, and heads without a logit per action, are left as they are.
    """
    if batch.allowed is None or head.num_allowed != parameters.shape[-1]:
        return parameters
    return mask_logits(parameters, batch.allowed)


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
        """Return this process's shard (B, T, A) of the normal samples of the global batch."""
        assert step is not None  # captured CUDA graphs have no entropy bonus
        # Every process draws the samples of the global batch and takes its slice. With a draw per process, all of them
        # would use the same samples, and the update would depend on the number of processes.
        random = generator(Stream.ENTROPY, self.config.seed, step)
        shape = (self.config.batch_size, *batch.actions.shape[1:])
        samples = random.standard_normal(shape, dtype=np.float32)
        shard = samples[self.group.slice_of(self.config.batch_size)]
        return torch.from_numpy(shard).to(batch.actions.device)


@torch.inference_mode()
def held_out_sums(model: PolicyModel, batch: WindowBatch) -> tuple[float, float, int]:
    """Return loss and error of greedy actions, both summed over real steps, and the number of these steps.

    The loss is that of `action_loss`, without the entropy bonus. The error of a step is the mean absolute difference of
    continuous actions; for discrete actions it is 0 if the greedy action is the logged one and 1 otherwise.
    """
    head = model.predict_action
    parameters = legal_parameters(head, model.predict_actions(*batch.inputs).float(), batch)
    values = (head.loss(parameters, batch.actions), head.error(parameters, batch.actions))
    loss, error = (float(torch.where(batch.valid_mask, each, 0.0).sum()) for each in values)
    return loss, error, int(batch.valid_mask.sum())


@dataclass(frozen=True)
class HeldOutLoss:
    """Measures the mean loss, and the mean error of greedy actions, on held-out episodes; an `Evaluation` of the trainer."""

    model: PolicyModel
    sampler: WindowSampler
    gatherer: WindowGatherer
    batch_size: int

    def __call__(self, step: int, check: object) -> dict[str, float]:
        count = min(_VALIDATION_WINDOWS, self.sampler.num_steps)
        # Evenly spaced windows, the same at every evaluation: differences between evaluations then come from the
        # weights alone, not from the choice of windows.
        steps = np.linspace(0, self.sampler.num_steps - 1, count).astype(np.int64)
        total_loss = 0.0
        total_error = 0.0
        num_steps = 0
        for part in np.array_split(steps, -(-count // self.batch_size)):  # in parts of at most batch_size windows
            loss, error, valid = held_out_sums(self.model, self.gatherer.gather(self.sampler.locate(part)))
            total_loss += loss
            total_error += error
            num_steps += valid
        return {"validation_loss": total_loss / num_steps, "validation_action_error": total_error / num_steps}
