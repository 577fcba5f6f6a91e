"""Extra rows that make an action independent of the other episodes that act at the same time.

On CPUs the order of summation in a matrix product depends on the number of rows: with MKL below sixteen rows, and for a
single output (a dot product per row) wherever the number of rows is not a multiple of sixteen. The last bits of an
action would then differ between an episode that acts alone and the same episode in a batch. So acting computes a few
more rows than it needs.

Threads share large products in ways that no number of rows repairs. Tests check one and two threads at the published
size (width 128); more threads, or much wider models, may differ in the last bits.

Shapes: R rows, N repeated rows, E hidden_size, F outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Int

MIN_ROWS = 16
"""Matrix products of this many rows or more are summed in the same order."""


def neighborhood(index: int, length: int) -> tuple[slice, int]:
    """Return `MIN_ROWS` adjacent positions that include ``index``, or all if there are fewer, and its place among them.

    Raises:
        RLTransformerError: There is no such position. A negative one would be read as another position, silently.
    """
    if not 0 <= index < length:
        raise RLTransformerError(
            f"there is no position {index} among {length}",
            where="predict_actions: at",
            fix="count timesteps from 0, the oldest of the window",
        )
    begin = max(0, index + 1 - MIN_ROWS)
    return slice(begin, min(length, begin + MIN_ROWS)), index - begin


def repeat_to_min_rows(rows: Int[np.ndarray, "R"], length: int) -> Int[np.ndarray, "N"]:
    """Return ``rows``, repeated in turn until ``length`` timesteps of each make `MIN_ROWS` rows or more."""
    return np.resize(rows, max(len(rows), -(-MIN_ROWS // length)))


def read_rows(read: Callable[[Tensor], Tensor], hidden: Float[Tensor, "R E"]) -> Float[Tensor, "R F"]:
    """Return what ``read`` computes from each row of ``hidden``, in products whose rows are a multiple of `MIN_ROWS`."""
    if torch.compiler.is_exporting():
        return read(hidden)  # an exported graph is computed by other libraries, which sum in orders of their own
    count = len(hidden)
    rows = torch.arange(-(-count // MIN_ROWS) * MIN_ROWS, device=hidden.device) % count
    return read(hidden[rows])[:count]
