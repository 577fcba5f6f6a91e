"""The loss of a batch of windows, over real steps only."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_transformer.models import PolicyModel
from rl_transformer.models.heads import GaussianHead
from rl_transformer.windows.gather import WindowBatch


def masked_mean(values: Tensor, valid_mask: Tensor, num_valid: float | None = None) -> Tensor:
    """Return sum(valid * values) / sum(valid): padded places have no weight at all, not even in the divisor.

    ``num_valid`` replaces the divisor where these values are a part of a larger batch.
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
    """Return the mean loss of the actions that were taken, over the real steps of all windows.

    Args:
        model: Any policy model.
        batch: Windows.
        num_valid: Divisor, if these windows are a part of a larger batch.
        parameters: What the model predicts for these windows, if it was computed already.
        entropy_weight: With the gaussian head, what a nat of entropy is worth.
        normals: (B, T, A) standard normal numbers for the entropy estimate.
    """
    head = model.predict_action
    parameters = (model.predict_actions(*batch.inputs) if parameters is None else parameters).float()
    losses = head.loss(parameters, batch.actions)
    if entropy_weight and isinstance(head, GaussianHead) and normals is not None:
        losses = losses - entropy_weight * head.entropy(parameters, normals)
    return masked_mean(losses, batch.valid_mask, num_valid)


@torch.inference_mode()
def action_error(model: PolicyModel, batch: WindowBatch) -> tuple[float, int]:
    """Return the summed error of greedy actions over real steps, and how many steps these are.

    The error of a step is the mean absolute difference, or 1 for another discrete action.
    """
    parameters = model.predict_actions(*batch.inputs).float()
    errors = model.predict_action.error(parameters, batch.actions)
    return float(torch.where(batch.valid_mask, errors, 0.0).sum()), int(batch.valid_mask.sum())
