"""Some episodes of a dataset as a dataset of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rl_transformer.trajectories.dataset import TrajectoryDataset


def take_episodes(dataset: TrajectoryDataset, episodes: Sequence[int] | np.ndarray) -> TrajectoryDataset:
    """Return a copy of some episodes, in the order given; findings and the statistics of observations stay those of all.

    Its fingerprint names the whole and the choice. It is not that of a dataset which is made of the same episodes alone.
    """
    chosen = np.asarray(episodes, np.int64)
    summary = dataset.summary
    lengths = dataset.lengths[chosen]
    offsets = np.append(0, np.cumsum(lengths))
    rows = np.arange(offsets[-1]) + np.repeat(summary.offsets[:-1][chosen] - offsets[:-1], lengths)
    finals = summary.final_observations
    taken = replace(
        summary,
        offsets=offsets,
        terminated=summary.terminated[chosen],
        truncated=summary.truncated[chosen],
        episode_returns=summary.episode_returns[chosen],
        final_observations=None if finals is None else finals[chosen],
        content="",
        fingerprint=_fingerprint_of(dataset, chosen),
    )
    # Copied, not mapped: rows of chosen episodes are not one piece of the file.
    columns = {name: np.asarray(column[rows]) for name, column in dataset.columns.items()}
    return TrajectoryDataset(dataset.spec, columns, taken, dataset.location)


def _fingerprint_of(dataset: TrajectoryDataset, chosen: np.ndarray) -> str:
    # With the fingerprint of the whole, a policy that learned from one part would count as trained on every other part.
    if np.array_equal(chosen, np.arange(dataset.num_trajectories)):
        return dataset.fingerprint
    return hashlib.sha256(dataset.fingerprint.encode() + chosen.tobytes()).hexdigest()
