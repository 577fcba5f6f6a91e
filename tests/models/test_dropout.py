"""Claims about dropout: its rate, and masks that are a function of seed and step."""

import numpy as np
import pytest
import torch

from rl_transformer.models.trunk.dropout import Dropout, dropout_masks


def test_dropout_has_its_rate_and_its_masks_are_independent():
    layer = Dropout(0.1).train()
    ones = torch.ones(300, 400)

    def masks(step, seed=0):
        with dropout_masks(seed, step, torch.device("cpu")):
            return layer(ones), layer(ones)

    first, second = masks(1)
    torch.testing.assert_close(first.unique(), torch.tensor([0, 1 / 0.9]))
    assert (first == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    assert first.mean() == pytest.approx(1, abs=0.004)
    for other in (second, masks(2)[0], masks(1, seed=1)[0]):
        assert np.corrcoef(first.flatten(), other.flatten())[0, 1] == pytest.approx(0, abs=0.01)
    assert np.corrcoef(first[:, :-1].flatten(), first[:, 1:].flatten())[0, 1] == pytest.approx(0, abs=0.01)
    assert torch.equal(first, masks(1)[0])
    residual = torch.randn(300, 400)
    with dropout_masks(0, 1, torch.device("cpu")):
        torch.testing.assert_close(layer.add_to(residual, ones), residual + first)
    assert torch.equal(layer.eval()(ones), ones)
