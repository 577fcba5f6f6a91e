"""Claims about resumed runs: they are the uninterrupted run to the bit, or they are refused."""

import shutil

import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.training.metrics import read_metrics
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs, stored_tensors

OPTIONS = {
    "published": {},
    "EMA and cosine": {"training": {"ema_decay": 0.9, "schedule": "cosine"}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "entropy": {"model": {"action_head": "gaussian"}, "training": {"entropy_weight": 0.1}},
    "held out": {"dataset": {"validation_fraction": 0.2}, "evaluation": {"every": 4}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
}
LONGER = {"training": {"train_steps": 20}}
_RESULTS = ("policy", "finished.json")


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_seed_gives_the_same_run(name, tmp_path):
    runs = [train(tiny_config(tmp_path / folder, **OPTIONS[name]), dataset=point_data()) for folder in "ab"]
    assert_equal_runs(*runs)
    other_seed = OPTIONS[name] | {"training": OPTIONS[name].get("training", {}) | {"seed": 5}}
    third = stored_tensors(train(tiny_config(tmp_path / "c", **other_seed), dataset=point_data()))
    assert any(not torch.equal(third[k], v) for k, v in stored_tensors(runs[0]).items())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_run_to_the_bit(name, tmp_path):
    data = point_data()
    every = OPTIONS[name] | {
        "training": OPTIONS[name].get("training", {}) | {"checkpoint_every": 1, "keep_checkpoints": 99}
    }
    whole = train(tiny_config(tmp_path / "whole", **every), dataset=data)
    for step in range(1, 12):
        cut = tmp_path / f"cut-{step}"
        shutil.copytree(whole, cut, ignore=shutil.ignore_patterns(*_RESULTS))
        for later in range(step + 1, 13):
            shutil.rmtree(cut / "checkpoints" / f"step-{later}")
        config = tiny_config(cut, **every)
        train(config, resume=True, dataset=data)
        assert_equal_runs(whole, cut)


@pytest.mark.parametrize("forgotten", ["exp_avg.", "exp_avg_sq.", "average."])
def test_forgetting_any_part_of_the_state_would_be_noticed(forgotten, tmp_path, monkeypatch):
    """The control of the test above: a checkpoint without this part does not resume to the same weights."""
    from rl_transformer.training import checkpoint

    options = {"training": {"ema_decay": 0.9, "keep_checkpoints": 99}}
    whole = train(tiny_config(tmp_path / "whole", **options), dataset=point_data())
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns(*_RESULTS, "step-8", "step-12"))
    genuine = checkpoint.load_file

    def forgetful(path):
        tensors = genuine(path)
        assert any(name.startswith(forgotten) for name in tensors)
        return {k: torch.zeros_like(t) if k.startswith(forgotten) else t for k, t in tensors.items()}

    monkeypatch.setattr(checkpoint, "load_file", forgetful)
    train(tiny_config(cut, **options), resume=True, dataset=point_data())
    with pytest.raises(AssertionError):
        assert_equal_runs(whole, cut)


def test_a_longer_run_continues_and_a_finished_one_is_left_alone(tmp_path, capsys):
    data = point_data()
    folder = train(tiny_config(tmp_path / "run"), dataset=data)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    train(tiny_config(folder), resume=True, dataset=data)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out
    train(tiny_config(folder, **LONGER), resume=True, dataset=data)
    assert "resumed from step 12" in capsys.readouterr().out
    straight = train(tiny_config(tmp_path / "straight", **LONGER), dataset=data)
    assert_equal_runs(folder, straight)


def test_an_extended_run_that_dies_is_not_called_finished(tmp_path, monkeypatch):
    from rl_transformer.training.updates import EagerUpdates

    data = point_data()
    folder = train(tiny_config(tmp_path / "run"), dataset=data)
    genuine = EagerUpdates.run

    def dies_at_15(updates, first, count):
        if first == 15:
            raise KeyboardInterrupt
        return genuine(updates, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(EagerUpdates, "run", dies_at_15)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(folder, **LONGER), resume=True, dataset=data)
    train(tiny_config(folder, **LONGER), resume=True, dataset=data)
    assert_equal_runs(folder, train(tiny_config(tmp_path / "straight", **LONGER), dataset=data))


def test_a_run_that_died_before_its_first_checkpoint_holds_every_step_once(tmp_path, monkeypatch, capsys):
    from rl_transformer.training import trainer

    def dies(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", dies)  # metrics are on disk by then
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(tmp_path / "run"), dataset=point_data())
    assert read_metrics(tmp_path / "run")
    folder = train(tiny_config(tmp_path / "run"), resume=True, dataset=point_data())
    assert "no usable checkpoint: starting again from step 0" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, 13))


def test_a_refused_resume_changes_nothing_in_the_folder(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RLTransformerError, match="the data has changed"):
        train(tiny_config(folder, **LONGER), resume=True, dataset=point_data(seed=1))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_resuming_with_another_option_is_refused_by_name(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    for section, name, value in (
        ("training", "learning_rate", 0.5),
        ("model", "n_layer", 1),
        ("training", "train_steps", 5),
    ):
        with pytest.raises(RLTransformerError, match=rf"{section}\.{name} is {value}"):
            train(tiny_config(folder, **{section: {name: value}}), resume=True, dataset=point_data())
    with pytest.raises(RLTransformerError, match="exists already and is not empty"):
        train(tiny_config(folder), dataset=point_data())


def test_resuming_on_other_data_is_refused(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    with pytest.raises(RLTransformerError, match="the data has changed"):
        train(tiny_config(folder, **LONGER), resume=True, dataset=point_data(seed=1))
