"""Claims about checkpoints on disk: which one is used, which ones stay, and that none is deleted on a suspicion."""

import hashlib
import json
import shutil

import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.training.checkpoint import newest_verified, numeric_environment, prune_checkpoints, save_checkpoint
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    data = point_data()
    folder = tmp_path / "run"
    train(tiny_config(folder), dataset=data)
    shutil.copytree(folder, tmp_path / "whole")
    shutil.rmtree(folder / "policy")
    path = folder / "checkpoints/step-12/state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    train(tiny_config(folder), resume=True, dataset=data)
    output = capsys.readouterr().out
    assert "checkpoint step-12 is damaged and is not used" in output
    assert "resumed from step 8" in output
    assert_equal_runs(folder, tmp_path / "whole")


def test_a_checkpoint_without_a_manifest_is_neither_used_nor_deleted(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    (folder / "checkpoints/step-12/manifest.json").unlink()
    train(tiny_config(folder, training={"train_steps": 20}), resume=True, dataset=point_data())
    aside = list((folder / "checkpoints").glob("step-12.set-aside-*"))
    assert len(aside) == 1
    assert (aside[0] / "state.safetensors").exists()


def test_only_the_newest_checkpoints_are_kept_and_leftovers_of_kills_go(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints/.step-3.tmp-deadbeef").mkdir(parents=True)
    train(tiny_config(folder), resume=True, dataset=point_data())
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-12", "step-8"]


@pytest.fixture
def save(tmp_path):
    """A function that saves a small checkpoint of a step."""
    objective = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(objective.parameters())
    return lambda step: save_checkpoint(tmp_path, step, objective, optimizer, None, {"evaluated": 0})


def flip_a_bit(checkpoint):
    path = checkpoint / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, lambda path: (path / "manifest.json").unlink(), lambda path: (path / "state.json").unlink()],
    ids=["bit", "manifest", "state"],
)
def test_damaged_checkpoints_are_not_among_those_to_keep(damage, save, tmp_path):
    for step in (1, 2, 3, 4):
        save(step)
    damage(tmp_path / "step-4")
    prune_checkpoints(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-2", "step-3", "step-4"}  # step-4 is for the user


def test_the_newest_checkpoint_is_that_of_the_largest_step(save, tmp_path):
    for step in (1000, 200):
        save(step)
    assert newest_verified(tmp_path, report=False).name == "step-1000"
    prune_checkpoints(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000"]


def test_a_checkpoint_under_the_name_of_another_step_is_not_used(save, tmp_path):
    for step in (4, 8):
        save(step)
    (tmp_path / "step-8").rename(tmp_path / "step-20")
    assert newest_verified(tmp_path, report=False).name == "step-4"


def test_a_checkpoint_under_the_name_of_another_step_is_not_among_those_to_keep(save, tmp_path):
    for step in (4, 8, 12):
        save(step)
    (tmp_path / "step-12").rename(tmp_path / "step-20")
    prune_checkpoints(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4", "step-8", "step-20"}


def test_a_checkpoint_of_another_run_is_named_and_not_used(tmp_path):
    """Its hashes are right, its data and its shapes are the same: without its options nothing would show it."""
    config = tiny_config(tmp_path / "run")
    folder = train(config, dataset=point_data())
    before = (folder / "metrics.jsonl").read_bytes()
    other = train(tiny_config(tmp_path / "other", training={"seed": 5, "train_steps": 16}), dataset=point_data())
    shutil.copytree(other / "checkpoints/step-16", folder / "checkpoints/step-16")
    longer = tiny_config(folder, training={"train_steps": 16})
    with pytest.raises(
        RLTransformerError, match=r"a different run: training\.seed was 5 there, and is 0 here"
    ) as caught:
        train(longer, resume=True, dataset=point_data())
    assert caught.value.where == str(folder / "checkpoints/step-16")
    assert (folder / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(folder / "checkpoints/step-16")  # as the advice says
    train(longer, resume=True, dataset=point_data())


def test_every_changed_circumstance_is_reported_when_a_run_is_resumed(tmp_path, capsys):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    newest = folder / "checkpoints/step-12"
    state = json.loads((newest / "state.json").read_text())
    now = numeric_environment("cpu", 1)
    assert set(now) == {"threads", "torch", "rl_transformer", "device", "world_size"}
    assert {name: state[name] for name in now} == now
    before = {"threads": 7, "torch": "1.0", "rl_transformer": "0.0.1", "device": "cuda", "world_size": 2}
    content = json.dumps(state | before).encode()
    (newest / "state.json").write_bytes(content)
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    train(tiny_config(folder, training={"train_steps": 13}), resume=True, dataset=point_data())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("not bit-exact"))
    assert all(f"{name} {before[name]} -> {value}" in line for name, value in now.items())
    shutil.rmtree(folder / "policy")
    train(tiny_config(folder, training={"train_steps": 13}), resume=True, dataset=point_data())
    assert "not bit-exact" not in capsys.readouterr().out  # nothing has changed since step 13
