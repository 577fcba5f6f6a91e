"""Why acting computes a few more rows than it needs: an action must not depend on who acts beside it.

On CPUs a matrix product of few rows is summed in another order than one of many (MKL; tried with 1 to 8
threads): with fewer than four rows always, and with other numbers of rows below twelve where threads share them. The
last bits of an action would then differ between an episode that acts alone and the same episode in a batch.
"""

from __future__ import annotations

import numpy as np

MIN_ROWS = 12
"""Matrix products of this many rows or more are summed in the same order."""
_NEIGHBORHOOD = 4


def neighborhood(index: int, length: int) -> tuple[slice, int]:
    """Return four adjacent positions (fewer if ``length`` is) that include ``index``, and its place among them.

    Computing four where one is needed costs next to nothing.
    """
    begin = max(0, index + 1 - _NEIGHBORHOOD)
    return slice(begin, min(length, begin + _NEIGHBORHOOD)), index - begin


def repeat_to_min_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """Return ``rows`` repeated until ``length`` timesteps of each make `MIN_ROWS` rows or more."""
    return np.tile(rows, -(-MIN_ROWS // (len(rows) * length)))
