"""Dropout whose masks are a function of (seed, step, site)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 1 << 16
_SITE = 0xD0  # keeps dropout's stream apart from every other draw of the same (seed, step)


class _MaskStream:
    """The dropout bits of one update, handed out in the order in which the model asks for them."""

    def __init__(self, seed: int, step: int, device: torch.device, rank: int) -> None:
        sequence = np.random.SeedSequence([seed, step, _SITE, *([rank] if rank else [])])
        self.device = device
        if device.type == "cpu":
            self.bits = np.random.SFC64(sequence)
        else:
            self.generator = torch.Generator(device)
            self.generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def keep(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
        """Return a mask of ``shape`` that is 0 with probability ``p`` (to 1/65536) and 1 elsewhere."""
        count, threshold = shape.numel(), round(p * _LEVELS) - _LEVELS // 2
        if self.device.type != "cpu":
            drawn = torch.empty(count, dtype=torch.int16, device=self.device)
            drawn.random_(-_LEVELS // 2, _LEVELS // 2, generator=self.generator)
        else:
            # torch's own bernoulli_ runs on one thread and took a sixth of a training step; raw
            # bits, four masks to a 64-bit word, take a tenth of that.
            words = self.bits.random_raw(-(-count // 4))
            drawn = torch.from_numpy(words.view(np.int16)[:count])
        # In place the comparison stays among int16 and is vectorized; to bool it is 20 times slower,
        # and so is a product with a bool mask.
        return drawn.ge_(threshold).to(dtype).view(shape)


_stream: ContextVar[_MaskStream | None] = ContextVar("dropout_stream", default=None)


@contextmanager
def dropout_masks(seed: int, step: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Make every `Dropout` inside draw its masks from (seed, step), its place in the model, and the rank.

    Outside of this block dropout follows torch's global generator, as in any other module.
    """
    token = _stream.set(_MaskStream(seed, step, device, rank))
    try:
        yield
    finally:
        _stream.reset(token)


class Dropout(nn.Module):
    """Inverted dropout: in training, zero with probability ``p`` and scale the rest by 1/(1-p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def active(self) -> bool:
        """Whether `forward` changes anything now."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        stream = _stream.get()
        if stream is None:
            return F.dropout(x, self.p)
        return x * stream.keep(x.shape, self.p, x.dtype) * (1 / (1 - self.p))

    def add_to(self, residual: Tensor, branch: Tensor) -> Tensor:
        """Return ``residual + dropout(branch)``, with the scaling folded into the addition."""
        stream = _stream.get()
        if not self.active or stream is None:
            return residual + self(branch)
        return torch.add(residual, branch * stream.keep(branch.shape, self.p, branch.dtype), alpha=1 / (1 - self.p))
