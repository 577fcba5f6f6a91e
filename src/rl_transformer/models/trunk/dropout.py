"""Dropout whose masks are a function of (seed, step, site), where a site is one dropout layer.

So a resumed run draws the masks of an uninterrupted one, without a generator's state in the checkpoint.

Shapes: *axes any axes, count elements of a mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.runtime.random_streams import Stream, seed_sequence
from rl_transformer.runtime.shapes import Float, Int, Shaped

# A mask compares 16 random bits with a threshold. More bits would cost more; the probability is exact to 1/65536.
_LEVELS = 1 << 16
_WORD = 0xFFFFFFFF


class _MaskStream(ABC):
    """The dropout masks of one update, in the order in which the model draws them."""

    def keep(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Float[Tensor, "*axes"]:
        """Return a mask of ``shape`` that is 0 with probability ``p`` and 1 elsewhere."""
        # Signed numbers, because torch computes with int16 but hardly with uint16.
        return self.above(round(p * _LEVELS) - _LEVELS // 2, shape.numel()).to(dtype).view(shape)

    @abstractmethod
    def seed(self) -> int:
        """Return a seed for a torch generator."""

    @abstractmethod
    def above(self, threshold: int, count: int) -> Shaped[Tensor, "count"]:
        """Return for each of ``count`` elements whether its random number, in [-2^15, 2^15), is at least ``threshold``."""
        """Draw ``count`` uniform int16; return 1 (or True) where they are ``threshold`` or more, and 0 elsewhere."""


class _CpuMasks(_MaskStream):
    """Masks from raw bits, four to a 64-bit word; torch's bernoulli_ runs on one thread and takes ten times as long."""

    def __init__(self, seed: int, step: int, rank: int) -> None:
        self._bits = np.random.SFC64(seed_sequence(Stream.DROPOUT, seed, step, rank=rank))

    def seed(self) -> int:
        return int(self._bits.random_raw()) >> 1  # torch's seeds are signed

    def above(self, threshold: int, count: int) -> Int[Tensor, "count"]:
        drawn = torch.from_numpy(self._bits.random_raw(-(-count // 4)).view(np.int16)[:count])
        # In place the comparison stays among int16 and is vectorized; to bool it is 20 times slower,
        # and so is a product with a bool mask.
        return drawn.ge_(threshold)


class _HashedMasks(_MaskStream):
    """Masks from a hash of (seed, rank, step, site, position): a CUDA graph can draw them, because the step is a tensor.

    One 32-bit word serves two elements of a mask. The word is MurmurHash3's finalizer of position * odd + offset, where
    both numbers are such hashes of (seed, rank, step, site).
    """

    def __init__(self, seed: int | Int[Tensor, ""], step: Int[Tensor, ""], rank: int) -> None:
        # The hash takes 32 bits at a time, so a longer seed enters in two parts.
        low = seed & 0x7FFFFFFF
        high = seed >> 31
        self._key = _hash(_hash(_hash(_hash(step) + low) + high) + rank)
        self._site = 0

    def seed(self) -> int:
        self._site += 1
        return int(_hash(self._key + 2 * self._site))

    def above(self, threshold: int, count: int) -> Shaped[Tensor, "count"]:
        """Return for each of ``count`` elements whether its random number, in [-2^15, 2^15), is at least ``threshold``."""
        # The site is a Python number, which a CUDA graph bakes in: the layers come in the same order in every update.
        self._site += 1
        offset = _hash(self._key + 2 * self._site)
        odd = _hash(self._key + 2 * self._site + 1) | 1
        positions = torch.arange(-(-count // 2), device=self._key.device)
        word = _hash((positions * odd + offset) & _WORD)
        # The two halves of a word, as signed numbers of 16 bits. Viewing the words as int16 would be one operation, but
        # vmap has no rule for a view of another type before torch 2.13, and stacked seeds run under vmap.
        low = ((word & 0xFFFF) ^ 0x8000) - 0x8000
        high = (word >> 16) - 0x8000
        return torch.stack([low, high], dim=-1).flatten()[:count] >= threshold


def _hash(word: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """Return MurmurHash3's 32-bit finalizer of int64 words."""
    word = word & _WORD
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _WORD
    return word ^ (word >> 16)


_stream: ContextVar[_MaskStream | None] = ContextVar("dropout_stream", default=None)


@contextmanager
def dropout_masks(
    seed: int | Int[Tensor, ""], step: int | Int[Tensor, ""], device: torch.device, rank: int = 0
) -> Iterator[None]:
    """Make every `Dropout` inside draw its masks from (seed, step), its place in the model, and the rank.

    Outside of this block dropout uses torch's global generator, as any other module does. If seed or step is a
    tensor, or the device is not the CPU, masks are computed on the device.
    """
    # Random bits are faster on a CPU than hashes, but neither a CUDA graph nor torch.func can see them drawn.
    if device.type == "cpu" and isinstance(step, int) and isinstance(seed, int):
        stream: _MaskStream = _CpuMasks(seed, step, rank)
    else:
        stream = _HashedMasks(seed, torch.as_tensor(step, device=device), rank)
    token = _stream.set(stream)
    try:
        yield
    finally:
        _stream.reset(token)


@contextmanager
def seed_foreign_dropout(device: torch.device) -> Iterator[None]:
    """Seed torch's generator from the mask stream, for dropout layers of other libraries."""
    stream = _stream.get()
    if stream is None:
        yield
        return
    # Forked, so that the global generator's state after the block does not depend on what was drawn inside.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream.seed())
        yield


class Dropout(nn.Module):
    """Inverted dropout: in training it sets numbers to zero with probability ``p`` and scales the rest by 1/(1-p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def active(self) -> bool:
        """Return True if `forward` would change anything now."""
        return self.training and self.p > 0

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        if not self.active:
            return x
        stream = _stream.get()
        if stream is None:
            return F.dropout(x, self.p)
        return x * stream.keep(x.shape, self.p, x.dtype) * (1 / (1 - self.p))

    def add_to(self, residual: Float[Tensor, "*axes"], branch: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """Return ``residual + dropout(branch)``."""
        if not self.active:
            return residual + branch
        stream = _stream.get()
        if stream is None:
            return residual + self(branch)
        # The scaling is part of the addition, which saves one pass over the branch.
        return torch.add(residual, branch * stream.keep(branch.shape, self.p, branch.dtype), alpha=1 / (1 - self.p))
