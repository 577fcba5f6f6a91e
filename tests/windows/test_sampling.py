"""Claims about the places where windows begin."""

import numpy as np

from rl_transformer.windows.sampling import WindowSampler


def test_every_step_begins_a_window_of_its_own_episode():
    offsets = np.array([0, 4, 5, 12])
    index = WindowSampler(offsets, np.arange(3), seed=0).locate(np.arange(12))
    assert index.rows.tolist() == list(range(12))
    assert index.trajectories.tolist() == [0] * 4 + [1] + [2] * 7
