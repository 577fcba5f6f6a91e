"""Extra rows that make an action independent of the other episodes that act at the same time.

On CPUs the order of summation in a matrix product depends on the number of rows if it is small (MKL, with 1 to 8
threads): always below four rows, and with some numbers of rows below twelve where threads share them. The last
bits of an action would then differ between an episode that acts alone and the same episode in a batch. So acting
computes a few more rows than it needs.

Shapes: R rows, N repeated rows.
"""

from __future__ import annotations

import numpy as np

from rl_transformer.runtime.shapes import Int

MIN_ROWS = 12
"""Matrix products of this many rows or more are summed in the same order."""
_NEIGHBORHOOD = 4


def neighborhood(index: int, length: int) -> tuple[slice, int]:
    """Return four adjacent positions that include ``index``, or all if ``length`` is less, and its place among them."""
    # Computing four positions where one is needed costs next to nothing.
    begin = max(0, index + 1 - _NEIGHBORHOOD)
    return slice(begin, min(length, begin + _NEIGHBORHOOD)), index - begin


def repeat_to_min_rows(rows: Int[np.ndarray, "R"], length: int) -> Int[np.ndarray, "N"]:
    """Return ``rows`` repeated until ``length`` timesteps of each of them make `MIN_ROWS` rows or more."""
    return np.tile(rows, -(-MIN_ROWS // (len(rows) * length)))
