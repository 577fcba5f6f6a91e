"""Claims about blocks of updates that need nothing from the CPU: the code of a GPU, run here without a graph."""

import json

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, load_policy, run, train
from rl_transformer.cli.main import main
from rl_transformer.models.trunk.dropout import Dropout, dropout_masks
from rl_transformer.run import train_seeds
from rl_transformer.training import loop
from rl_transformer.training.cuda_graph import DeviceUpdates
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories.store import write_store

from tests.toys import POINT, point_data, tiny_config

PLAIN = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
CPU = torch.device("cpu")


@pytest.fixture
def blocks(monkeypatch):
    """Make every run go by blocks of seven updates."""
    made = []

    def updates(trainer):
        made.append(DeviceUpdates([trainer], 7))
        return made[-1]

    def switch(on):
        monkeypatch.setattr(loop, "updates_on_device", updates if on else lambda trainer: None)
        return made

    return switch


def weights(folder):
    return dict(load_policy(folder).model.state_dict().items())


OPTIONS = {
    "plain": {"model": PLAIN},
    "average": {"model": PLAIN, "training": {"ema_decay": 0.9, "train_steps": 20, "schedule": "cosine"}},
    "no clipping": {"model": PLAIN, "training": {"max_gradient_norm": None}},
    "expected returns": {"model": PLAIN, "returns": {"label": "expected"}},
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
    for name, tensor in weights(folders[False]).items():
        torch.testing.assert_close(weights(folders[True])[name], tensor, atol=1e-6, rtol=1e-5)


def test_checkpoints_and_evaluations_come_when_they_are_due(blocks, tmp_path):
    blocks(True)
    options = {
        "evaluation": {"env_id": POINT, "target_returns": [4.0], "num_episodes": 2, "every": 5},
        "training": {"train_steps": 22, "checkpoint_every": 4, "keep_checkpoints": 9},
    }
    folder = train(tiny_config(tmp_path / "run", **options), dataset=point_data())
    assert [row["step"] for row in read_metrics(folder) if "return_at_4" in row] == [5, 10, 15, 20, 22]
    assert sorted(int(p.name[5:]) for p in (folder / "checkpoints").iterdir()) == [4, 8, 12, 16, 20, 22]


def test_a_run_by_blocks_resumes_to_the_same_weights(blocks, tmp_path):
    blocks(True)
    whole = train(tiny_config(tmp_path / "whole", training={"train_steps": 16}), dataset=point_data())
    train(tiny_config(tmp_path / "parts", training={"train_steps": 8}), dataset=point_data())
    config = tiny_config(tmp_path / "parts", training={"train_steps": 16})
    parts = train(config, dataset=point_data(), resume=True)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(parts)[name], tensor), name


def test_after_a_number_that_is_not_finite_no_update_is_made(blocks, tmp_path, monkeypatch):
    made = blocks(True)
    genuine, seen = DeviceUpdates._update, []

    def poisoned(self):
        if len(seen) == 9:  # update 10, the third of its block
            with torch.no_grad():
                self.gatherer._conditions[0].fill_(float("inf"))
        seen.append([p.detach().clone() for p in self.live])
        genuine(self)

    monkeypatch.setattr(DeviceUpdates, "_update", poisoned)
    with pytest.raises(RLTransformerError, match="no update was made") as error:
        train(tiny_config(tmp_path / "run", model=PLAIN), dataset=point_data())
    assert error.value.where == "update 10"
    for now, before in zip(made[-1].live, seen[9], strict=True):
        assert torch.equal(now, before)


def test_hashed_masks_have_their_rate_and_are_independent():
    """Over elements, sites, steps and seeds: correlations within five standard errors of zero."""
    layers, count, p = [Dropout(0.1), Dropout(0.1)], 200_000, 0.1

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
    for name, tensor in weights(first).items():
        assert torch.equal(weights(again)[name], tensor), name


STACKED = {
    "published": {},
    "discrete head and average": {"training": {"ema_decay": 0.9, "train_steps": 14, "schedule": "cosine"}},
    "sliding_window": {"model": {"attention": "sliding_window"}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "cloning": {"model": {"conditions": []}},
}


@pytest.mark.parametrize("name", STACKED)
def test_seeds_trained_together_are_the_runs_of_each_alone(name, blocks, tmp_path, monkeypatch):
    """Dropout included: a seed's windows, masks, clipping, averages and checkpoints are its own."""
    blocks(True)
    seeds = (0, 3, 2**40)
    options = {k: dict(v) for k, v in STACKED[name].items()}
    training = options.pop("training", {})
    alone = [
        train(
            tiny_config(tmp_path / "alone" / str(s), training=training | {"seed": s}, **options), dataset=point_data()
        )
        for s in seeds
    ]
    monkeypatch.setattr(run, "can_stack_seeds", lambda config: True)
    config = tiny_config(tmp_path / "together", training=training, **options)
    together = train_seeds(config, seeds, dataset=point_data())
    assert [folder.name for folder in together] == [f"seed-{s}" for s in seeds]
    loose = name == "bfloat16"  # sums of eight bits, and Adam makes a whole step of a sign
    for one, other in zip(together, alone, strict=True):
        assert [row["step"] for row in read_metrics(one)] == [row["step"] for row in read_metrics(other)]
        for ours, theirs in zip(read_metrics(one), read_metrics(other), strict=True):
            assert ours == pytest.approx(theirs, rel=0.05 if loose else 1e-4)
        for key, tensor in () if loose else weights(other).items():
            torch.testing.assert_close(weights(one)[key], tensor, msg=key, atol=2e-6, rtol=1e-5)
    assert not torch.equal(*(weights(folder)["embed_state.weight"] for folder in together[:2]))


def test_seeds_trained_together_resume_and_each_can_be_continued_alone(blocks, tmp_path, monkeypatch):
    blocks(True)
    monkeypatch.setattr(run, "can_stack_seeds", lambda config: True)
    longer = {"train_steps": 16}
    whole = train_seeds(tiny_config(tmp_path / "whole", training=longer), (0, 1), dataset=point_data())
    parts = train_seeds(tiny_config(tmp_path / "parts", training={"train_steps": 8}), (0, 1), dataset=point_data())
    train_seeds(tiny_config(tmp_path / "parts", training=longer), (0, 1), dataset=point_data(), resume=True)
    for one, other in zip(parts, whole, strict=True):
        for key, tensor in weights(other).items():
            torch.testing.assert_close(weights(one)[key], tensor, atol=1e-6, rtol=1e-5)
    config = tiny_config(tmp_path / "parts" / "seed-1", training={"train_steps": 20, "seed": 1})
    assert len(read_metrics(train(config, dataset=point_data(), resume=True))) == 20
    with pytest.raises(RLTransformerError, match=r"stand at steps \[16, 20\]"):
        train_seeds(
            tiny_config(tmp_path / "parts", training={"train_steps": 24}), (0, 1), dataset=point_data(), resume=True
        )


def test_on_a_cpu_seeds_are_trained_one_after_the_other(tmp_path, capsys):
    write_store(tmp_path / "data", point_data().spec, (point_data().trajectory(i) for i in range(40)))
    arguments = ["train", "gym", "--data", f"rlt:{tmp_path / 'data'}", "--train-steps", "2", "--model.hidden_size", "8"]
    assert (
        main([*arguments, "--output", str(tmp_path / "seeds"), "--seeds", "2..3", "--json", str(tmp_path / "o")]) == 0
    )
    assert sorted(p.name for p in (tmp_path / "seeds").iterdir()) == ["seed-2", "seed-3"]
    assert main([*arguments, "--output", str(tmp_path / "one"), "--seed", "3"]) == 0
    for key, tensor in weights(tmp_path / "one").items():
        assert torch.equal(weights(tmp_path / "seeds" / "seed-3")[key], tensor)
    assert [run["seed"] for run in json.loads((tmp_path / "o").read_text())["runs"]] == [2, 3]
    for slip, message in ((["--seeds", "3..2"], "not a range"), (["--seeds", "0..1", "--seed", "0"], "give only one")):
        assert main([*arguments, "--output", str(tmp_path / "x"), *slip]) == 2
        assert message in capsys.readouterr().err
