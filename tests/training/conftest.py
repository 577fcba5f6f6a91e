import pytest

from rl_transformer import run
from rl_transformer.training import return_model
from rl_transformer.training.cuda_graph import DeviceUpdates
from rl_transformer.training.updates import EagerUpdates


@pytest.fixture
def blocks(monkeypatch):
    """Return a function that makes every run go by blocks of seven updates (or, with False, one at a time).

    It returns the list of the `DeviceUpdates` that are made from then on.
    """
    made = []

    def device_updates(trainer):
        made.append(DeviceUpdates([trainer], 7))
        return made[-1]

    def switch(on):
        for module in (run, return_model):
            monkeypatch.setattr(module, "make_updates", device_updates if on else EagerUpdates)
        return made

    return switch
