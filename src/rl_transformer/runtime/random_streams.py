"""Provide independent random streams: every draw is a function of the seed, the step and the purpose of the draw.

No generator is carried from one step to the next. A resumed run therefore needs to know only its step, and a new draw
in one place cannot change the random numbers of another.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Names the purposes of random draws.

    Every released result depends on the values: never change one, and never use one twice.
    """

    WINDOWS = 0x5A
    VALIDATION_SPLIT = 0x5B
    SYNTHETIC_SEQUENCES = 0x5C
    EPOCH_ORDER = 0x60
    IMAGE_SHIFT = 0x65
    GRAPH = 0x6A
    TEXT = 0x7E
    ATTENTION_WINDOWS = 0xA7
    ACTION_SAMPLING = 0xAC
    DATA_COLLECTION = 0xBE
    DROPOUT = 0xD0
    DATA_SUBSET = 0xDA
    ENTROPY = 0xE0
    GOLDEN_STEPS = 0xE6
    RETURN_FOLDS = 0xF0
    OFFLINE_JUDGING = 0x0F
    POLICY_SELECTION = 0x5E
    LIVE_TRIALS = 0x17


def generator(stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of a stream.

    Args:
        stream: Purpose of the draws.
        key: Usually (seed, step), or (seed,) for draws made once per run.
    """
    # NumPy hashes the sequence, so keys that differ in one number yield unrelated streams. Adding the numbers instead
    # would make (seed 1, step 2) equal to (seed 2, step 1).
    return np.random.default_rng([*key, int(stream)])


def seed_sequence(stream: Stream, *key: int, rank: int = 0) -> np.random.SeedSequence:
    """Return the seed sequence of a stream that differs between processes.

    Args:
        stream: Purpose of the draws.
        key: Usually (seed, step).
        rank: Rank of the process.
    """
    # Rank 0 leaves its rank out, so that its draws equal those of a run in a single process.
    return np.random.SeedSequence([*key, int(stream), *([rank] if rank else [])])
