"""The loss of a batch, and the mean loss of a data set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models import PolicyModel
from rl_transformer.training.losses import masked_mean
from rl_transformer.utils.data import Batch, Dataset


def batch_loss(model: PolicyModel, batch: Batch) -> Tensor:
    """Return the mean loss of the logged actions over the real timesteps of a batch.

    Squared error for continuous actions, cross-entropy for discrete ones: what the model's action head defines.
    """
    valid = batch["attention_mask"].bool()
    return masked_mean(_step_losses(model, batch), valid)


@torch.no_grad()
def evaluate(model: PolicyModel, dataset: Dataset, *, batch_size: int = 256) -> float:
    """Return the mean loss over all real timesteps of all windows of ``dataset``, without dropout.

    Args:
        model: For example a `DecisionTransformer`; its training mode is restored.
        dataset: For example ``Dataset(path, split="validation")``.
        batch_size: Windows per forward pass.
    """
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
    """Return the loss of every timestep: (B, T)."""
    conditions = batch["returns_to_go"] if model.config.conditions else batch["returns_to_go"][..., :0]
    parameters = model.predict_actions(batch["states"], batch["actions"], conditions, batch["timesteps"])
    return model.predict_action.loss(parameters.float(), batch["actions"])
