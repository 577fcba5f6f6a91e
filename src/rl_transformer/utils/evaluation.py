"""Compute the loss of a batch and the mean loss of a dataset."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models import PolicyModel
from rl_transformer.training.losses import masked_mean
from rl_transformer.utils.data import Batch, Dataset


def batch_loss(model: PolicyModel, batch: Batch) -> Tensor:
    """Return the mean loss of the logged actions over the real timesteps of a batch, as a scalar tensor.

    The model's action head defines the loss: squared error for continuous actions, cross-entropy (nats) for discrete
    ones.

    Args:
        model: Any policy model, for example a `DecisionTransformer`.
        batch: B windows from a `Dataset` or `BatchSampler`, on the model's device.
    """
    valid = batch["attention_mask"].bool()
    return masked_mean(_step_losses(model, batch), valid)


@torch.no_grad()
def evaluate(model: PolicyModel, dataset: Dataset, *, batch_size: int = 256) -> float:
    """Return the mean loss over all real timesteps of all windows of ``dataset``, without dropout.

    Args:
        model: Any policy model; its training mode is restored at the end.
        dataset: For example ``Dataset(path, split="validation")``.
        batch_size: Windows per forward pass; it does not change the result.
    """
    # Sums and counts are added up, and divided once: windows have different numbers of real timesteps, so a mean of
    # batch means would weight timesteps unequally.
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    count = 0
    for indices in np.array_split(np.arange(len(dataset)), -(-len(dataset) // batch_size)):
        batch = {name: tensor.to(device) for name, tensor in dataset.gather(indices).items()}
        valid = batch["attention_mask"].bool()
        total += float(torch.where(valid, _step_losses(model, batch), 0.0).sum())
        count += int(valid.sum())
    model.train(was_training)
    return total / count


def _step_losses(model: PolicyModel, batch: Batch) -> Tensor:
    """Return the loss of every timestep, padded ones included: (B, T)."""
    # A model without conditions, such as behavior cloning, gets a tensor with zero columns.
    conditions = batch["returns_to_go"] if model.config.conditions else batch["returns_to_go"][..., :0]
    parameters = model.predict_actions(batch["states"], batch["actions"], conditions, batch["timesteps"])
    return model.predict_action.loss(parameters.float(), batch["actions"])
