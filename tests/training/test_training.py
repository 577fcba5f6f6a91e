"""Claims about one training run: what it writes, what stops it, and which data and options it refuses."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rl_transformer import RLTransformerError, TrajectoryDataset, load_policy, train
from rl_transformer.training.metrics import Progress, read_metrics
from rl_transformer.windows.sampling import WindowSampler
from rl_transformer.windows.selection import split_episodes
from tests.toys import point_data, telling_data, tiny_config


def test_metrics_hold_every_step_once_and_no_wall_clock(tmp_path):
    folder = train(
        tiny_config(tmp_path / "run", dataset={"validation_fraction": 0.2}, evaluation={"every": 6}),
        dataset=point_data(),
    )
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "validation_action_error" in row] == [6, 12]
    held_out = {"validation_loss", "validation_action_error"}
    assert set().union(*rows) == {"step", "loss", "gradient_norm", "learning_rate", *held_out}
    assert [json.loads(line)["step"] for line in (folder / "timing.jsonl").read_text().splitlines()] == [4, 6, 8, 12]


def random_walks(num_episodes=40, seed=0):
    """Return episodes whose actions are drawn by chance, so that nothing about them can be learned, only memorized."""
    random = np.random.default_rng(seed)
    return TrajectoryDataset.from_episodes(
        {
            "observations": random.normal(size=(5, 3)),
            "actions": random.integers(3, size=5),
            "rewards": random.normal(size=5),
            "terminated": True,
        }
        for _ in range(num_episodes)
    )


def memorizing_config(folder, steps, validation_fraction):
    return tiny_config(
        folder,
        dataset={"validation_fraction": validation_fraction},
        training={"train_steps": steps, "learning_rate": 1e-2, "warmup_steps": 1, "schedule": "constant"},
    )


def test_a_policy_that_memorizes_its_episodes_is_named_and_the_advised_length_does_not(tmp_path, capsys):
    folder = train(memorizing_config(tmp_path / "run", 200, 0.3), dataset=random_walks())
    losses = {row["step"]: row["validation_loss"] for row in read_metrics(folder) if "validation_loss" in row}
    assert list(losses) == list(range(20, 201, 20))  # ten evaluations, however long the run
    best = min(losses, key=losses.get)
    printed = capsys.readouterr().out
    assert f"lowest after {best} updates ({losses[best]:.4g}) and is {losses[200]:.4g} now" in printed
    assert "trained on about" not in printed
    # The fix, followed.
    assert f"train again with --train-steps {best}" in printed
    again = train(memorizing_config(tmp_path / "again", best, 0.3), dataset=random_walks())
    assert read_metrics(again)[-1]["validation_loss"] < 1.05 * losses[best] < losses[200]


def test_repeating_few_steps_without_a_held_out_loss_is_noted(tmp_path, capsys):
    # 80 windows of five steps per update, and 200 steps.
    for steps, is_noted in ((40, False), (60, True)):
        config = memorizing_config(tmp_path / str(steps), steps, 0.0)
        config.training.batch_size = 80
        train(config, dataset=random_walks())
        assert ("each of the 200 steps is trained on about 120 times" in capsys.readouterr().out) == is_noted


def test_run_json_records_machine_and_data(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    described = json.loads((folder / "run.json").read_text())
    assert described["dataset_fingerprint"] == point_data().fingerprint
    assert {"versions", "device", "threads", "git_commit", "format_version"} <= set(described)
    assert torch.get_num_threads() == 1


def test_an_environment_that_cannot_work_is_found_before_the_first_update(tmp_path):
    for env_id, message in (("nonsense-v0", "cannot be made"), ("CartPole-v1", "observations are vectors of 4")):
        with pytest.raises(RLTransformerError, match=message):
            train(tiny_config(tmp_path / "run", evaluation={"env_id": env_id}), dataset=point_data())
    assert not (tmp_path / "run").exists()


WRONG = {
    "training.precision": "float16", "training.schedule": "linear", "training.train_steps": 2.5, "training.batch_size": "8",
    "training.learning_rate": math.nan, "training.betas": (0.9, 1.5), "training.max_gradient_norm": -1.0,
    "training.threads": -1, "training.seed": -1, "training.weight_decay": math.inf, "returns.reward_clip": -1.0,
    "returns.scale": math.inf, "dataset.max_trajectories": 0, "dataset.top_fraction": 0.0, "model.max_ep_len": 0,
    "model.n_inner": -3, "model.timestep_initializer_range": -1.0, "model.arch": "rnn", "model.conditions": ["cost"],
    "policy.action_selection": "banana", "policy.suggested_targets": [], "evaluation.env_id": "", "windows.start": "first",
}  # fmt: skip


@pytest.mark.parametrize("option", WRONG)
def test_values_that_would_train_garbage_are_refused_by_name(option, tmp_path):
    section, name = option.split(".")
    with pytest.raises(RLTransformerError) as caught:
        train(tiny_config(tmp_path / "run", **{section: {name: WRONG[option]}}), dataset=point_data())
    assert option in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("planted", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_update_and_names_the_episodes(planted, tmp_path, monkeypatch):
    from rl_transformer.training import losses

    genuine = losses.action_loss
    calls = []

    def poisoned(model, batch, **options):
        calls.append(batch)
        loss = genuine(model, batch, **options)
        if len(calls) < 7:
            return loss
        bad = next(model.parameters()).sum() * 0
        return loss + bad * math.inf if planted == "loss" else loss + torch.sqrt(bad.abs())  # slope of sqrt at 0

    monkeypatch.setattr(losses, "action_loss", poisoned)
    draw = WindowSampler.draw
    drawn = {}
    monkeypatch.setattr(WindowSampler, "draw", lambda self, step, size: drawn.setdefault(step, draw(self, step, size)))
    folder = tmp_path / "run"
    with pytest.raises(RLTransformerError, match="no update was made; the batch came from episodes") as caught:
        train(tiny_config(folder), dataset=point_data())
    assert caught.value.where == "update 7"
    named = [int(number) for number in caught.value.problem.rpartition("episodes ")[2].splitlines()[0].split(", ")]
    assert named == sorted(set(drawn[7].trajectories.tolist()))
    for name, tensor in load_file(folder / "checkpoints/step-4/state.safetensors").items():
        assert torch.isfinite(tensor).all(), name
    assert not (folder / "policy").exists()


def test_filters_leave_only_what_they_say(tmp_path):
    data = telling_data((4, 7, 2, 9))

    def chosen(**options):
        config = tiny_config(tmp_path, dataset=options)
        return split_episodes(data, data.episode_returns, config).train.tolist()

    assert chosen(min_return=250.0) == [1, 2, 3]
    assert chosen(max_trajectories=3, top_fraction=0.2) == [2]
    with pytest.raises(RLTransformerError, match="the largest is"):
        chosen(min_return=1e9)


def test_tensorboard_files_are_written_if_asked_for(tmp_path):
    folder = train(tiny_config(tmp_path / "run", training={"tensorboard": True}), dataset=point_data())
    assert list((folder / "tensorboard").glob("events.*"))


def test_longer_episodes_than_the_timestep_table_are_reported_and_the_last_row_is_reused(tmp_path, capsys):
    folder = train(tiny_config(tmp_path / "run", model={"max_ep_len": 8}), dataset=point_data())
    assert "timesteps from 8 on share the last timestep embedding" in capsys.readouterr().out
    assert load_policy(folder).spec.model.max_ep_len == 8


def test_the_progress_bar_counts_updates_not_blocks_of_updates(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress(100, start=10)
    for step in (11, 60, 100):
        progress.update(step, 0.5)
    assert progress._bar.n == 100
    progress.close()


def test_data_that_is_open_needs_no_name_and_a_path_may_be_the_output(tmp_path):
    config = tiny_config("unused", dataset={"uri": ""})
    config.output = tmp_path / "run"
    assert (train(config, dataset=point_data()) / "policy").is_dir()


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("fast", None), "begin with rlt.preset"),
        ((None, [{"observations": []}]), "TrajectoryDataset.from_episodes"),
        ((None, "rlt:walks"), "open_trajectories"),
    ],
    ids=["a preset's name", "a list of episodes", "a URI"],
)
def test_arguments_of_another_type_are_answered_with_the_call_that_makes_the_right_one(arguments, fix, tmp_path):
    config, dataset = arguments
    with pytest.raises(RLTransformerError) as error:
        train(config or tiny_config(tmp_path / "run"), dataset=dataset)
    assert fix in error.value.fix
