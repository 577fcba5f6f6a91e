"""Attention masks, added to the scores: 0 where a query may look, a large negative number elsewhere."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def causal_mask(length: int, span: int | None, per_step: int, device: torch.device) -> Tensor:
    """Return the causal mask of L tokens: (1, 1, L, L).

    Args:
        length: L.
        span: Sliding-window attention: a token sees the last ``span`` timesteps, its own included. None: all.
        per_step: Tokens per timestep.
        device: Where the mask is put.
    """
    # Masks are cached and may be needed for training next, so they must not be inference tensors.
    with torch.inference_mode(False):
        allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        if span is not None:
            step = torch.arange(length, device=device) // per_step
            allowed = allowed & (step[:, None] - step < span)
        return additive_mask(allowed)


def additive_mask(allowed: Tensor) -> Tensor:
    """Return what to add to scores so that only the ``allowed`` ones count.

    The masked value is finite: a padded token may see nothing at all, and softmax over infinities only
    would be NaN. It is the smallest bfloat16, so that the mask survives autocast.
    """
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, torch.finfo(torch.bfloat16).min)
