"""Compute returns-to-go, the rewards that an episode still earns: all of them, the next few, or discounted ones."""

from __future__ import annotations

import numpy as np


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """Return R_t = r_t + r_(t+1) + ... + r_T of one episode: (T,) -> (T,) float64.

    The sum is undiscounted and includes the reward of step t itself (Chen et al. 2021, section 3).
    """
    # A cumulative sum from the end costs O(T), and float64 keeps its rounding error negligible over long episodes.
    return np.cumsum(rewards[::-1], dtype=np.float64)[::-1]


def returns_of_episodes(rewards: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the returns-to-go of many episodes at once: (N,) -> (N,) float64, to the bit as `returns_to_go` of each.

    Args:
        rewards: Rewards of all episodes, (N,).
        offsets: Rows at which episodes begin, and N: (E + 1,).
    """
    result = rewards.astype(np.float64)
    lengths = np.diff(offsets)
    # Step by step from the end of all episodes at the same time: the same additions, in the same order.
    by_length = np.argsort(-lengths, kind="stable")
    last = offsets[1:][by_length] - 1
    counts = np.searchsorted(-lengths[by_length], -np.arange(1, lengths.max(initial=0)))
    for step, count in enumerate(counts, start=1):
        # The first ``count`` episodes, in this order, have more than ``step`` steps.
        at = last[:count] - step
        result[at] += result[at + 1]
    return result


def rewards_ahead(
    rewards: np.ndarray, offsets: np.ndarray, *, steps: int | None = None, discount: float = 1.0
) -> np.ndarray:
    """Return r_t + discount r_(t+1) + ... + discount^(steps-1) r_(t+steps-1) within each episode: (N,) -> (N,) float64.

    Args:
        rewards: Rewards of all episodes, (N,).
        offsets: Rows at which episodes begin, and N: (E + 1,).
        steps: The number of rewards, 1 or more; at the end of an episode there are fewer. None: all of them.
        discount: Weight of each reward relative to the one before it.
    """
    longest = int(np.diff(offsets).max(initial=0))
    remaining = longest if steps is None else min(steps, longest)
    ends = np.repeat(offsets[1:], np.diff(offsets))
    rows = np.arange(len(rewards))
    result = np.zeros(len(rewards))
    added = 0  # rewards that the result holds
    # Sums of 1, 2, 4, 8, ... rewards make up any number of them, in few passes over all the data. Differences of cumulative
    # sums would take one pass, but after a large reward they have lost the digits of small ones.
    power = rewards.astype(np.float64)
    width = 1
    while remaining:
        if remaining & 1:
            inside = rows + added < ends
            result[inside] += discount**added * power[rows[inside] + added]
            added += width
        inside = rows + width < ends
        doubled = power.copy()
        doubled[inside] += discount**width * power[rows[inside] + width]
        power = doubled
        width *= 2
        remaining >>= 1
    return result
