"""Episodes as dicts, for the tests of checks and refusals."""

import numpy as np

from rl_transformer import TrajectoryDataset


def vectors(length=6, seed=0, **changes):
    """Return an episode of 3 numbers and 2 actions; a change to None leaves the array out."""
    random = np.random.default_rng(seed)
    values = {
        "observations": random.normal(size=(length, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (length, 2)).astype(np.float32),
        "rewards": np.ones(length),
        "terminated": True,
        **changes,
    }
    return {name: value for name, value in values.items() if value is not None}


def from_vectors(*episodes, **options):
    """Return a dataset of such episodes; without any, of one."""
    return TrajectoryDataset.from_episodes(episodes or [vectors()], **options)


def finding(data, kind):
    """Return the only finding of a kind."""
    (found,) = [f for f in data.findings if f.kind == kind]
    return found


def kinds(data):
    """Return the kinds of all findings."""
    return {f.kind for f in data.findings}
