"""Experiments that are measured in worker processes in a second: sizes aside, `reproduce stitching`."""

import time

from rl_transformer.reproductions.failure_modes import Stitching
from rl_transformer.training import metrics


class SmallStitching(Stitching):
    """Stitching with policies of a few updates."""

    updates = 3

    def recipe(self, setup):
        options = {"model.n_layer": 1, "training.train_steps": self.updates, "training.batch_size": 4}
        return {"walks_each": 20, "episodes": 5, "options": options}


class PausingStitching(SmallStitching):
    """Cells that take long enough to be stopped between two of them."""

    def measure(self, cell, setup):
        time.sleep(0.3)
        return super().measure(cell, setup)


class EndlessStitching(SmallStitching):
    """Policies that train until they are stopped; the rows of their metrics are written soon."""

    updates = 1_000_000

    def measure(self, cell, setup):
        metrics._LINES_EVERY_SECONDS = 0.2  # this is a process of its own
        return super().measure(cell, setup)
