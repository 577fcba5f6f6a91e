"""Independent random streams: every draw is a function of the run's seed, the step and what is drawn.

No generator is carried from one step to the next. So a resumed run needs only its step, and adding a
draw in one place cannot change the numbers of another.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. The values are part of every released result: never change one, never use one twice."""

    WINDOWS = 0x5A
    VALIDATION_SPLIT = 0x5B
    SYNTHETIC_SEQUENCES = 0x5C
    EPOCH_ORDER = 0x60
    GRAPH = 0x6A
    TEXT = 0x7E
    ATTENTION_WINDOWS = 0xA7
    ACTION_SAMPLING = 0xAC
    DATA_COLLECTION = 0xBE
    DROPOUT = 0xD0
    DATA_SUBSET = 0xDA
    ENTROPY = 0xE0


def generator(stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of a stream; ``key`` is usually (seed, step), or (seed,) for draws made once."""
    return np.random.default_rng([*key, int(stream)])


def seed_sequence(stream: Stream, *key: int, rank: int = 0) -> np.random.SeedSequence:
    """Return the seed of a stream that differs between processes; rank 0 draws what a single process draws."""
    return np.random.SeedSequence([*key, int(stream), *([rank] if rank else [])])
