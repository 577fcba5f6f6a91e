"""Attention masks that are added to the scores: 0 at the tokens that a query sees, a large negative number elsewhere.

Shapes: L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rl_transformer.runtime.shapes import Bool, Float


def causal_mask(length: int, span: int | None, per_step: int, device: torch.device) -> Float[Tensor, "1 1 L L"]:
    """Return the causal mask for all windows and heads.

    Args:
        length: L.
        span: Sliding-window attention: a token sees the last ``span`` timesteps, its own included. None: all.
        per_step: Tokens per timestep.
        device: The device of the mask.
    """
    # Made anew in every call: a mask that was kept could be one of a tracer's (torch.export, torch.compile), with which
    # nothing can be computed later.
    allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if span is not None:
        # Counted in timesteps rather than tokens, so that all tokens of a timestep see equally far back.
        step = torch.arange(length, device=device) // per_step
        allowed = allowed & (step[:, None] - step < span)
    return additive_mask(allowed)


def additive_mask(allowed: Bool[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Return the mask to add to scores so that only the ``allowed`` ones count."""
    # The masked value is finite: a padded token may see nothing at all, and a softmax over nothing but infinities would
    # be NaN. It is the smallest bfloat16, so that autocast does not turn it into an infinity.
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, torch.finfo(torch.bfloat16).min)
