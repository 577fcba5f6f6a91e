"""Claims about seeds trained as one stacked batch: each is the run of its seed alone."""

import json

import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.launch import seeds
from rl_transformer.launch.seeds import train_seeds
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories.store import write_store
from tests.toys import dials_data, point_data, tiny_config
from tests.training.runs import assert_close_weights, model_weights

SEEDS = (0, 3, 2**40)
STACKED = {
    "published": {},
    "EMA and cosine": {"training": {"ema_decay": 0.9, "train_steps": 14, "schedule": "cosine"}},
    "multi-discrete head": {"model": {"action_head": "multi_discrete"}},
    "sliding window": {"model": {"attention": "sliding_window"}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "cloning": {"model": {"conditions": []}},
}


def data_of(name):
    return dials_data(40) if name == "multi-discrete head" else point_data()


@pytest.fixture
def stacked(monkeypatch):
    """Train seeds together although there is no GPU."""
    monkeypatch.setattr(seeds, "can_stack_seeds", lambda config: True)


@pytest.mark.parametrize("name", STACKED)
def test_seeds_trained_together_are_the_runs_of_each_alone(name, blocks, stacked, tmp_path):
    """Dropout included: a seed's windows, masks, clipping, EMA and checkpoints are its own."""
    blocks(True)
    data = data_of(name)
    options = {section: dict(values) for section, values in STACKED[name].items()}
    training = options.pop("training", {})

    def config_of(folder, **more):
        return tiny_config(tmp_path / folder, training=training | more, **options)

    alone = [train(config_of(f"alone-{seed}", seed=seed), dataset=data) for seed in SEEDS]
    together = train_seeds(config_of("together"), SEEDS, dataset=data)
    assert [folder.name for folder in together] == [f"seed-{seed}" for seed in SEEDS]
    loose = name == "bfloat16"  # sums of eight bits, and Adam makes a whole step of a sign
    for one, other in zip(together, alone, strict=True):
        assert [row["step"] for row in read_metrics(one)] == [row["step"] for row in read_metrics(other)]
        for found, expected in zip(read_metrics(one), read_metrics(other), strict=True):
            assert found == pytest.approx(expected, rel=0.05 if loose else 1e-4)
        if not loose:
            assert_close_weights(model_weights(one), model_weights(other), atol=2e-6)
    assert not torch.equal(*(model_weights(folder)["embed_state.weight"] for folder in together[:2]))


def test_seeds_trained_together_resume_and_each_can_be_continued_alone(blocks, stacked, tmp_path):
    blocks(True)
    longer = {"train_steps": 16}
    whole = train_seeds(tiny_config(tmp_path / "whole", training=longer), (0, 1), dataset=point_data())
    parts = train_seeds(tiny_config(tmp_path / "parts", training={"train_steps": 8}), (0, 1), dataset=point_data())
    train_seeds(tiny_config(tmp_path / "parts", training=longer), (0, 1), dataset=point_data(), resume=True)
    for one, other in zip(parts, whole, strict=True):
        assert_close_weights(model_weights(one), model_weights(other), atol=1e-6)
    config = tiny_config(tmp_path / "parts" / "seed-1", training={"train_steps": 20, "seed": 1})
    assert len(read_metrics(train(config, dataset=point_data(), resume=True))) == 20
    with pytest.raises(RLTransformerError, match=r"are at steps \[16, 20\]"):
        train_seeds(
            tiny_config(tmp_path / "parts", training={"train_steps": 24}), (0, 1), dataset=point_data(), resume=True
        )


def test_on_a_cpu_seeds_are_trained_one_after_the_other(tmp_path, capsys):
    from rl_transformer.cli.main import main

    write_store(tmp_path / "data", point_data().spec, (point_data().trajectory(i) for i in range(40)))
    arguments = ["train", "gym", "--data", f"rlt:{tmp_path / 'data'}", "--train-steps", "2", "--model.hidden_size", "8"]
    assert (
        main([*arguments, "--output", str(tmp_path / "seeds"), "--seeds", "2..3", "--json", str(tmp_path / "o")]) == 0
    )
    assert sorted(p.name for p in (tmp_path / "seeds").iterdir()) == ["seed-2", "seed-3"]
    assert main([*arguments, "--output", str(tmp_path / "one"), "--seed", "3"]) == 0
    for key, tensor in model_weights(tmp_path / "one").items():
        assert torch.equal(model_weights(tmp_path / "seeds" / "seed-3")[key], tensor)
    assert [run["seed"] for run in json.loads((tmp_path / "o").read_text())["runs"]] == [2, 3]
    for slip, message in (
        (["--seeds", "3..2"], "names no seed, names one twice"),
        (["--seeds", "0..1", "--seed", "0"], "give only one"),
    ):
        assert main([*arguments, "--output", str(tmp_path / "x"), *slip]) == 2
        assert message in capsys.readouterr().err
