"""Extra rows that make an action independent of the other episodes that act at the same time.

On CPUs the order of summation in a matrix product depends on the number of rows: with MKL always below four rows, with
AVX-512 below sixteen for some widths, and for a single output (a dot product per row) wherever the number of rows is
not a multiple of four. The last bits of an action would then differ between an episode that acts alone and the same
episode in a batch. So acting computes a few more rows than it needs.

Threads share large products in ways that no number of rows repairs. Up to two threads the models of the published
sizes act the same to the bit; with more threads, or in models much wider than 128, only one thread promises it.

Shapes: R rows, N repeated rows.
"""

from __future__ import annotations

import numpy as np

from rl_transformer.runtime.shapes import Int

MIN_ROWS = 16
"""Matrix products of this many rows or more are summed in the same order."""
_NEIGHBORHOOD = 4


def neighborhood(index: int, length: int) -> tuple[slice, int]:
    """Return four adjacent positions that include ``index``, or all if ``length`` is less, and its place among them."""
    # Computing four positions where one is needed costs next to nothing.
    begin = max(0, index + 1 - _NEIGHBORHOOD)
    return slice(begin, min(length, begin + _NEIGHBORHOOD)), index - begin


def repeat_to_min_rows(rows: Int[np.ndarray, "R"], length: int) -> Int[np.ndarray, "N"]:
    """Return ``rows``, repeated in turn until ``length`` timesteps of each make enough rows.

    Enough is `MIN_ROWS` or more, and a multiple of four where the action head reads fewer than four positions.
    """
    count = max(len(rows), -(-MIN_ROWS // length))
    while length < _NEIGHBORHOOD and count * length % _NEIGHBORHOOD:
        count += 1
    return np.resize(rows, count)
