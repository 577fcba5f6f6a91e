"""Claims about blocks of updates that need nothing from the CPU: the code of a GPU, run here without a graph."""

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.models.trunk.dropout import Dropout, dropout_masks
from rl_transformer.training.cuda_graph import DeviceUpdates
from rl_transformer.training.metrics import read_metrics
from tests.toys import POINT, point_data, tiny_config
from tests.training.runs import assert_close_weights, model_weights

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CPU = torch.device("cpu")

OPTIONS = {
    "plain": {"model": NO_DROPOUT},
    "EMA": {"model": NO_DROPOUT, "training": {"ema_decay": 0.9, "train_steps": 20, "schedule": "cosine"}},
    "no clipping": {"model": NO_DROPOUT, "training": {"max_gradient_norm": None}},
    "expected returns": {"model": NO_DROPOUT, "returns": {"label": "expected"}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_blocks_make_the_updates_of_the_plain_loop(name, blocks, tmp_path):
    folders = {}
    for on in (False, True):
        made = blocks(on)
        folders[on] = train(tiny_config(tmp_path / str(on), **OPTIONS[name]), dataset=point_data())
    assert made
    assert [row["step"] for row in read_metrics(folders[True])] == [row["step"] for row in read_metrics(folders[False])]
    for one, other in zip(read_metrics(folders[True]), read_metrics(folders[False]), strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-7)
    assert_close_weights(model_weights(folders[True]), model_weights(folders[False]), atol=1e-6)


def test_checkpoints_and_evaluations_come_when_they_are_due(blocks, tmp_path):
    blocks(True)
    options = {
        "evaluation": {"env_id": POINT, "target_returns": [4.0], "num_episodes": 2, "every": 5},
        "training": {"train_steps": 22, "checkpoint_every": 4, "keep_checkpoints": 9},
    }
    folder = train(tiny_config(tmp_path / "run", **options), dataset=point_data())
    assert [row["step"] for row in read_metrics(folder) if "return_at_4" in row] == [5, 10, 15, 20, 22]
    assert sorted(int(p.name[5:]) for p in (folder / "checkpoints").iterdir()) == [4, 5, 8, 10, 12, 15, 16, 20, 22]


def test_a_run_by_blocks_resumes_to_the_same_weights(blocks, tmp_path):
    blocks(True)
    whole = train(tiny_config(tmp_path / "whole", training={"train_steps": 16}), dataset=point_data())
    train(tiny_config(tmp_path / "parts", training={"train_steps": 8}), dataset=point_data())
    config = tiny_config(tmp_path / "parts", training={"train_steps": 16})
    parts = train(config, dataset=point_data(), resume=True)
    for name, tensor in model_weights(whole).items():
        assert torch.equal(model_weights(parts)[name], tensor), name


def test_after_a_number_that_is_not_finite_no_update_is_made(blocks, tmp_path, monkeypatch):
    made = blocks(True)
    genuine = DeviceUpdates._update
    seen = []

    def poisoned(self):
        if len(seen) == 9:  # update 10, the second of its block (blocks end at the checkpoints 4, 8, 12)
            with torch.no_grad():
                self.sources[0].gatherer._conditions[0].fill_(float("inf"))
        seen.append([p.detach().clone() for p in self.live])
        genuine(self)

    monkeypatch.setattr(DeviceUpdates, "_update", poisoned)
    with pytest.raises(RLTransformerError, match="no update was made") as error:
        train(tiny_config(tmp_path / "run", model=NO_DROPOUT), dataset=point_data())
    assert error.value.where == "update 10"
    assert len(seen) == 12
    for now, before in zip(made[-1].live, seen[9], strict=True):
        assert torch.equal(now, before)


def test_hashed_masks_have_their_rate_and_are_independent():
    """Over elements, sites, steps and seeds: correlations within five standard errors of zero."""
    layers = [Dropout(0.1), Dropout(0.1)]
    count = 200_000
    p = 0.1

    def masks(seed, step):
        with dropout_masks(seed, torch.tensor(step), CPU):
            return [(layer(torch.ones(count)) == 0).double().numpy() for layer in layers]

    drawn = [*masks(0, 1), *masks(0, 2), *masks(1, 1), *masks(2**40, 1)]
    error = 5 * np.sqrt(p * (1 - p) / count)
    assert all(abs(mask.mean() - p) < error for mask in drawn)
    pairs = [(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    pairs += [(mask[lag:], mask[:-lag]) for mask in drawn for lag in (1, 2, 128)]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for a, b in pairs) < 5 / np.sqrt(count - 128)
    assert np.array_equal(drawn[0], masks(0, 1)[0])


def test_dropout_inside_blocks_is_that_of_seed_and_step(blocks, tmp_path):
    """The same run twice, and in blocks of another size: the same weights."""
    blocks(True)
    first = train(tiny_config(tmp_path / "a"), dataset=point_data())
    again = train(tiny_config(tmp_path / "b", training={"checkpoint_every": 3}), dataset=point_data())
    for name, tensor in model_weights(first).items():
        assert torch.equal(model_weights(again)[name], tensor), name
