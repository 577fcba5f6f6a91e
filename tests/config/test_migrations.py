"""Claims about folders of earlier versions: they load, they act as they did, and their runs go on.

tests/released holds what version 0.1.0 wrote (tests/make_released.py); the other old spellings are written down here.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.config import RunConfig
from rl_transformer.config.migrations import (
    migrate_checkpoint_tensor,
    migrate_option,
    migrate_policy,
    migrate_policy_tensor,
    migrate_run_config,
)
from rl_transformer.language.config import TextPretrainConfig
from rl_transformer.policy import PolicySpec
from rl_transformer.policy.spec import FORMAT_VERSION
from rl_transformer.training.metrics import read_metrics
from tests.make_released import RELEASED_RUN
from tests.toys import point_data, tiny_config
from tests.training.runs import assert_equal_runs, rename_tensors

RELEASED = Path(__file__).parents[1] / "released"
# Options of run format 1 that have another name or value now, and what they are called now.
OLD_SPELLING = [
    ("training.average_decay", 0.9, "training.ema_decay", 0.9),
    ("model.time", "after_norm", "model.timestep_embedding", "after_norm"),
    ("model.attention", "window", "model.attention", "full"),
    ("model.attention", "streaming", "model.attention", "sliding_window"),
    ("policy.target", "asked", "policy.target", "given"),
]


def released_json(path):
    return json.loads((RELEASED / path).read_text())


def nested(options):
    """Return {"section.name": value} as a configuration file has it."""
    found = {}
    for name, value in options.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


# Configurations


@pytest.mark.parametrize("version", [1, 2])
def test_a_released_configuration_loads_with_its_options(version):
    config = RunConfig.from_dict(released_json(f"run-format-{version}/config.json"))
    expected = tiny_config(f"run-format-{version}", **RELEASED_RUN, training={"train_steps": 4})
    assert config == expected
    config.check()


@pytest.mark.parametrize(("old_name", "old_value", "name", "value"), OLD_SPELLING)
def test_options_and_values_in_their_old_spelling_are_read(old_name, old_value, name, value):
    assert migrate_option(old_name, old_value) == (name, value)
    stored = released_json("run-format-1/config.json")
    section, _, key = old_name.partition(".")
    stored[section][key] = old_value
    assert RunConfig.from_dict(stored).get(name) == value


def test_unfinished_episodes_are_now_an_option_of_the_reader():
    stored = nested({"dataset.uri": "d4rl:hopper.hdf5", "dataset.keep_unfinished": True})
    assert RunConfig.from_dict(stored).dataset.uri == "d4rl:hopper.hdf5?keep_unfinished=true"
    stored["dataset"]["keep_unfinished"] = False
    assert RunConfig.from_dict(stored).dataset.uri == "d4rl:hopper.hdf5"


@pytest.mark.parametrize(
    "values",
    [
        released_json("run-format-1/config.json"),
        nested({old: value for old, value, _, _ in OLD_SPELLING}),
        nested({"dataset.uri": "d4rl:hopper.hdf5", "dataset.keep_unfinished": True}),
        RunConfig().to_dict(),
    ],
    ids=["released", "old spelling", "unfinished episodes", "present"],
)
def test_migrating_a_configuration_twice_is_migrating_it_once(values):
    before = json.dumps(values)
    once = migrate_run_config(values)
    assert migrate_run_config(once) == once
    assert json.dumps(values) == before  # what was passed is left as it is


def test_a_present_configuration_is_not_changed_by_migrating():
    assert migrate_run_config(RunConfig().to_dict()) == RunConfig().to_dict()


def test_pretraining_reads_the_old_spelling_too():
    stored = TextPretrainConfig().to_dict()
    stored["training"]["average_decay"] = 0.9
    del stored["training"]["ema_decay"]
    assert TextPretrainConfig.from_dict(stored).training.ema_decay == 0.9


# Policies


@pytest.mark.parametrize("version", [1, 2])
def test_a_released_policy_file_migrates_to_the_present_format(version):
    stored = released_json(f"policy-format-{version}/policy.json")
    before = json.dumps(stored)
    migrated = migrate_policy(stored)
    assert json.dumps(stored) == before
    assert migrated["format_version"] == FORMAT_VERSION
    assert "return_rule" not in migrated
    spec = PolicySpec.from_dict(stored, where="policy.json")
    assert spec == PolicySpec.from_dict(migrated, where="policy.json")
    # The numbers below are those of the file.
    assert spec.returns.scale == stored["return_rule"]["scale"] == 10.0
    assert spec.returns.update == "subtract"
    assert [condition.name for condition in spec.conditions] == ["return_to_go"]
    assert spec.conditions[0] == spec.returns
    assert spec.suggested_targets == tuple(stored["suggested_targets"])
    assert spec.target == {1: "given", 2: "generated"}[version]
    assert spec.prior_exponent == {1: 10.0, 2: 2.0}[version]
    assert (spec.return_bins is None) == (version == 1)


@pytest.mark.parametrize(
    ("changes", "conditions"),
    [
        ({"conditions": []}, []),
        ({"conditions": ["return_to_go"]}, ["return_to_go"]),
    ],
)
def test_a_policy_of_an_old_format_keeps_its_conditions(changes, conditions):
    stored = released_json("policy-format-1/policy.json")
    stored["model"] |= changes
    spec = PolicySpec.from_dict(stored, where="policy.json")
    assert [condition.name for condition in spec.conditions] == conditions
    assert spec.returns.scale == 10.0  # stays known, for reports and the return model


@pytest.mark.parametrize("version", [3, 4])
def test_what_was_called_the_unit_of_a_return_is_its_kind(version):
    stored = released_json(f"policy-format-{version}/policy.json")
    assert stored["returns"]["unit"] == stored["conditions"][0]["unit"] == "episode"
    spec = PolicySpec.from_dict(stored, where="policy.json")
    assert spec.returns == spec.conditions[0]
    assert spec.returns.kind == "episode"
    assert "unit" not in spec.to_dict()["returns"]
    stored["returns"]["unit"] = "next:3"  # never written by that version
    assert PolicySpec.from_dict(stored, where="policy.json").returns.kind == "next:3"
    stored["returns"]["unit"] = "weekly"
    with pytest.raises(RLTransformerError, match="do not define a return"):
        PolicySpec.from_dict(stored, where="policy.json")


def test_fields_that_came_late_to_format_2_are_renamed():
    stored = released_json("policy-format-2/policy.json")
    stored["model"]["time"] = "after_norm"
    stored["return_range"] = [-3.0, 8.0]
    spec = PolicySpec.from_dict(stored, where="policy.json")
    assert spec.model.timestep_embedding == "after_norm"
    assert spec.target_ranges == {"return_to_go": (-3.0, 8.0)}


def test_a_policy_is_written_in_the_present_format_and_read_again(tmp_path):
    for version in (1, 2, 3, 4):
        policy = load_policy(RELEASED / f"policy-format-{version}")
        policy.save(tmp_path / str(version))
        assert json.loads((tmp_path / str(version) / "policy.json").read_text())["format_version"] == FORMAT_VERSION
        assert load_policy(tmp_path / str(version)).content_hash == policy.content_hash


# The targets and outcomes of tests/make_released.py: formats 3 and 4 have a second condition.
@pytest.mark.parametrize(
    ("version", "target", "targets", "outcomes"),
    [
        (1, 6.0, {}, {}),
        (2, None, {}, {}),
        (3, 6.0, {"cost_to_go": 4.0}, {"cost": 0.25}),
        (4, 6.0, {"cost_to_go": 4.0}, {"cost": 0.25}),
    ],
)
def test_a_released_policy_acts_as_recorded(version, target, targets, outcomes):
    policy = load_policy(RELEASED / f"policy-format-{version}")
    recorded = released_json(f"policy-format-{version}-actions.json")
    session = policy.session(target, targets=targets)
    for observation, action in zip(recorded["observations"], recorded["actions"], strict=True):
        assert session.act(np.array(observation, np.float32)) == pytest.approx(action, abs=1e-5)
        session.observe(0.5, **outcomes)


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("scaling.action_center", "normalizer.action_center"),
        ("return_model.belief.weight", "return_model.return_logits.weight"),
        ("model.encoder.h.0.attn.c_attn.weight", "model.encoder.h.0.attn.c_attn.weight"),
    ],
)
def test_tensors_of_a_policy_are_renamed(name, present):
    assert migrate_policy_tensor(name) == present
    assert migrate_policy_tensor(present) == present


# Runs


@pytest.mark.parametrize("version", [1, 2])
def test_a_released_run_goes_on(version, tmp_path):
    """The folder was written after 4 updates by the version that brought the format; later ones must be able to go on."""
    shutil.copytree(RELEASED / f"run-format-{version}", tmp_path / "run")
    options = {**RELEASED_RUN, "training": {"train_steps": 8}}
    train(tiny_config(tmp_path / "run", **options), resume=True, dataset=point_data())
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 9))
    straight = read_metrics(train(tiny_config(tmp_path / "straight", **options), dataset=point_data()))
    for row, expected in zip(rows, straight, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)  # the released numbers may come from another machine
    assert json.loads((tmp_path / "run" / "run.json").read_text())["format_version"] == 2
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "average_decay" not in stored["training"]


def test_a_released_run_refuses_other_options_by_their_present_names(tmp_path):
    shutil.copytree(RELEASED / "run-format-1", tmp_path / "run")
    config = tiny_config(tmp_path / "run", **RELEASED_RUN, training={"train_steps": 8, "ema_decay": 0.5})
    with pytest.raises(RLTransformerError, match=r"training\.ema_decay is 0\.5, and the run was started with 0\.0"):
        train(config, resume=True, dataset=point_data())


@pytest.mark.parametrize(
    ("name", "present"),
    [
        ("model.belief.weight", "model.return_logits.weight"),
        ("exp_avg_sq.belief.bias", "exp_avg_sq.return_logits.bias"),
        ("model.words.table.weight", "loss.lm_head.embeddings.weight"),
        ("model.words.positions.weight", "loss.lm_head.positions.weight"),
        ("model.words.head.weight", "loss.lm_head.output.weight"),
        ("exp_avg.words.table.weight", "exp_avg.lm_head.embeddings.weight"),
        ("average.words.head.weight", "average.lm_head.output.weight"),
        ("model.encoder.ln_f.weight", "model.encoder.ln_f.weight"),
        ("average.embed_ln.weight", "average.embed_ln.weight"),
    ],
)
def test_tensors_of_a_checkpoint_are_renamed(name, present):
    assert migrate_checkpoint_tensor(name) == present
    assert migrate_checkpoint_tensor(present) == present


def test_a_return_model_in_its_old_spelling_goes_on(tmp_path):
    options = {"returns": {"predict": True}, "training": {"ema_decay": 0.5}}
    whole = train(tiny_config(tmp_path / "whole", **options), dataset=point_data())
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("policy", "finished.json", "step-12"))
    shutil.rmtree(cut / "checkpoints")
    (cut / "metrics.jsonl").unlink()
    checkpoint = cut / "return_model" / "checkpoints" / "step-8"
    # Weight and bias, each with two moments and an average.
    assert rename_tensors(checkpoint, lambda name: name.replace("return_logits", "belief")) == 8
    resumed = train(tiny_config(cut, **options), resume=True, dataset=point_data())
    assert_equal_runs(whole, resumed)
    assert torch.equal(*(load_policy(run).return_model.return_logits.weight for run in (whole, resumed)))
