"""Rows of pictures and numbers (see `mixed_rows`) as tensors, for the networks.

A module of its own, so that data is read, checked and converted without the seconds that loading torch takes.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.mixed_rows import Streams


def split_rows(streams: Streams, rows: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Return the pictures (..., channels, height, width) and the numbers (..., V) of rows (..., L); None without numbers."""
    pictures = []
    begin = 0
    for shape in streams.pictures:
        end = begin + math.prod(shape)
        pictures.append(rows[..., begin:end].unflatten(-1, shape))
        begin = end
    return pictures, as_numbers(rows[..., begin:]) if streams.numbers else None


def as_numbers(packed: Tensor) -> Tensor:
    """Return bytes (..., 4 V) as float32 numbers (..., V)."""
    _check_byte_order()
    return packed.contiguous().view(torch.float32)


def as_bytes(numbers: Tensor) -> Tensor:
    """Return float32 numbers (..., V) as bytes (..., 4 V)."""
    _check_byte_order()
    return numbers.contiguous().view(torch.uint8)


def _check_byte_order() -> None:
    if sys.byteorder != "little":
        raise RLTransformerError(
            "images combined with numbers can be read on little-endian machines only",
            where="observations",
            fix="observe the images or the numbers alone: dataset.observe",
        )
