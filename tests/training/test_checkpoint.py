"""Claims about checkpoints on disk: which one is used, which ones stay, and that none is deleted on a suspicion."""

import shutil

from rl_transformer import train
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
