"""Claims about training: what an update depends on, what a resumed run is, what stops it."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rl_transformer import RLTransformerError, load_policy, train
from rl_transformer.config.run import TrainingConfig
from rl_transformer.models import BehaviorCloningModel, DecisionTransformerConfig, DecisionTransformerModel
from rl_transformer.config.presets import PRESETS, preset
from rl_transformer.training.losses import action_error, action_loss, masked_mean
from rl_transformer.training.metrics import read_metrics
from rl_transformer.training.optimizer import EMA, learning_rate, parameter_groups, trained_parameters
from rl_transformer.windows.gathering import WindowBatch
from rl_transformer.windows.sampling import WindowSampler

from .make_released import RELEASED_RUN
from tests.toys import point_data, telling_data, tiny_config


def weights(folder):
    return load_file(folder / "policy" / "policy.safetensors")


def assert_equal_runs(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_the_loss_divides_by_the_number_of_real_steps():
    values, valid = (
        torch.tensor([[1.0, 2, 100], [4, 100, 100]]),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    assert masked_mean(values, valid).item() == pytest.approx(7 / 3)
    assert masked_mean(torch.tensor([[1.0, math.nan]]), torch.tensor([[True, False]])).item() == 1


def test_the_loss_and_its_gradient_equal_a_loop_over_real_steps_and_ignore_padding():
    torch.manual_seed(0)
    model = DecisionTransformerModel(
        DecisionTransformerConfig(state_dim=3, act_dim=2, hidden_size=16, n_layer=1, max_ep_len=9)
    ).eval()
    lengths = (5, 1, 3)
    states, actions, returns = torch.randn(3, 5, 3), torch.rand(3, 5, 2), torch.randn(3, 5, 1)
    timesteps = torch.arange(5).expand(3, 5)
    valid = torch.arange(5) < torch.tensor(lengths)[:, None]

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    batch = WindowBatch(states, actions, returns, timesteps, valid)
    expected = []
    for i, length in enumerate(lengths):
        out = model(
            states[i : i + 1, :length],
            actions[i : i + 1, :length],
            None,
            returns[i : i + 1, :length],
            timesteps[i : i + 1, :length],
        )
        expected += [(out.action_preds[0, t] - actions[i, t]).square().mean() for t in range(length)]
    loop = torch.stack(expected).mean()
    ours = action_loss(model, batch)
    assert ours.item() == pytest.approx(loop.item(), rel=1e-6)
    naive, found = gradients(loop), gradients(ours)
    assert set(naive) - set(found) == set()
    for name in found:
        torch.testing.assert_close(found[name], naive[name], atol=1e-6, rtol=1e-4)
    states[~valid], actions[~valid], returns[~valid] = 1e3, 7, -1e3
    assert action_loss(model, batch).item() == pytest.approx(loop.item(), rel=1e-6)
    assert action_loss(model, batch, entropy_weight=0.0).item() == pytest.approx(loop.item(), rel=1e-6)
    error, count = action_error(model, batch)
    assert count == 9
    assert 0 < error / count < 2


def test_the_entropy_bonus_ignores_padding_as_the_loss_does():
    config = DecisionTransformerConfig(
        state_dim=3, act_dim=2, hidden_size=16, n_layer=1, max_ep_len=9, action_head="gaussian"
    )
    model = DecisionTransformerModel(config).eval()
    states, actions, returns, normals = (
        torch.randn(2, 4, 3),
        torch.rand(2, 4, 2),
        torch.randn(2, 4, 1),
        torch.randn(2, 4, 2),
    )
    valid = torch.tensor([[True] * 4, [True, False, False, False]])
    batch = WindowBatch(states, actions, returns, torch.arange(4).expand(2, 4), valid)
    parameters = model.predict_actions(*batch.inputs)
    head = model.predict_action
    expected = [
        head.loss(parameters, actions)[i, t] - 0.3 * head.entropy(parameters, normals)[i, t]
        for i in (0, 1)
        for t in range(4)
        if valid[i, t]
    ]
    loss = action_loss(model, batch, entropy_weight=0.3, normals=normals)
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    normals[~valid], actions[~valid] = 1e6, 0.999
    assert action_loss(model, batch, entropy_weight=0.3, normals=normals).item() == pytest.approx(loss.item(), rel=1e-6)


def test_the_step_size_rises_linearly_then_stays_or_falls():
    published = preset("gym").training
    assert learning_rate(1, published) == pytest.approx(1e-8)
    assert learning_rate(10_000, published) == pytest.approx(1e-4)
    assert learning_rate(99_999, published) == pytest.approx(1e-4)
    cosine = TrainingConfig(schedule="cosine", learning_rate=1.0, warmup_steps=10, train_steps=110)
    assert [learning_rate(s, cosine) for s in (5, 10, 60, 110)] == pytest.approx([0.5, 1, 0.5, 0])
    assert learning_rate(1, TrainingConfig(warmup_steps=0)) == pytest.approx(1e-4)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_every_trained_parameter_is_in_exactly_one_group(decay):
    model = DecisionTransformerModel(DecisionTransformerConfig(hidden_size=16, n_layer=2))
    groups = parameter_groups(model, TrainingConfig(decay=decay, weight_decay=0.1))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(trained_parameters(model))
    assert not [n for n in names if n.startswith(("predict_state", "predict_return"))]
    by_role = {group["role"]: group for group in groups}
    assert by_role["decay"]["weight_decay"] == 0.1
    if decay == "matrices":
        assert set(by_role) == {"decay", "no_decay"}
        assert "embed_timestep.weight" in by_role["no_decay"]["names"]
        assert "embed_ln.weight" in by_role["no_decay"]["names"]
        assert "encoder.h.0.attn.c_attn.weight" in by_role["decay"]["names"]
        assert all(n.endswith("weight") for n in by_role["decay"]["names"])


def test_an_empty_group_is_a_bug_and_not_a_silent_option():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(ValueError, match="group is empty"):
        parameter_groups(Bare(), TrainingConfig(decay="matrices", weight_decay=0.1))


def test_the_average_is_that_of_its_definition_and_swaps_back():
    model = torch.nn.Linear(2, 1)
    average, by_hand = EMA(model, 0.9), model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += step
        average.take(average.weight(step))
        decay = min(0.9, step / (step + 10))
        by_hand = decay * by_hand + (1 - decay) * model.weight.detach()
    live = model.weight.detach().clone()
    average.swap()
    torch.testing.assert_close(model.weight.detach(), by_hand)
    average.swap()
    assert torch.equal(model.weight.detach(), live)


OPTIONS = {
    "published": {},
    "average and cosine": {"training": {"ema_decay": 0.9, "schedule": "cosine"}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "entropy": {"model": {"action_head": "gaussian"}, "training": {"entropy_weight": 0.1}},
    "held out": {"dataset": {"validation_fraction": 0.2}, "evaluation": {"every": 4}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_seed_gives_the_same_run(name, tmp_path):
    runs = [train(tiny_config(tmp_path / folder, **OPTIONS[name]), dataset=point_data()) for folder in "ab"]
    assert_equal_runs(*runs)
    other = OPTIONS[name] | {"training": OPTIONS[name].get("training", {}) | {"seed": 5}}
    third = weights(train(tiny_config(tmp_path / "c", **other), dataset=point_data()))
    assert any(not torch.equal(third[k], v) for k, v in weights(runs[0]).items())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_run_to_the_bit(name, tmp_path):
    data = point_data()
    every = OPTIONS[name] | {
        "training": OPTIONS[name].get("training", {}) | {"checkpoint_every": 1, "keep_checkpoints": 99}
    }
    whole = train(tiny_config(tmp_path / "whole", **every), dataset=data)
    for step in range(1, 12):
        cut = tmp_path / f"cut-{step}"
        shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("policy", "finished.json"))
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
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("policy", "finished.json", "step-8", "step-12"))
    genuine = checkpoint.load_file
    monkeypatch.setattr(
        checkpoint,
        "load_file",
        lambda p: {k: torch.zeros_like(t) if k.startswith(forgotten) else t for k, t in genuine(p).items()},
    )
    train(tiny_config(cut, **options), resume=True, dataset=point_data())
    with pytest.raises(AssertionError):
        assert_equal_runs(whole, cut)


def test_metrics_hold_every_step_once_and_no_wall_clock(tmp_path):
    folder = train(
        tiny_config(tmp_path / "run", dataset={"validation_fraction": 0.2}, evaluation={"every": 6}),
        dataset=point_data(),
    )
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "validation_action_error" in row] == [6, 12]
    assert set().union(*rows) == {"step", "loss", "gradient_norm", "learning_rate", "validation_action_error"}
    assert [json.loads(line)["step"] for line in (folder / "timing.jsonl").read_text().splitlines()] == [4, 8, 12]


def test_a_longer_run_continues_and_a_finished_one_is_left_alone(tmp_path, capsys):
    data = point_data()
    folder = train(tiny_config(tmp_path / "run"), dataset=data)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    train(tiny_config(folder), resume=True, dataset=data)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert "nothing to do" in capsys.readouterr().out
    train(tiny_config(folder, training={"train_steps": 20}), resume=True, dataset=data)
    assert "resumed from step 12" in capsys.readouterr().out
    straight = train(tiny_config(tmp_path / "straight", training={"train_steps": 20}), dataset=data)
    assert_equal_runs(folder, straight)


def test_an_extended_run_that_dies_is_not_called_finished(tmp_path, monkeypatch):
    from rl_transformer.training import loop

    data, longer = point_data(), {"training": {"train_steps": 20}}
    folder = train(tiny_config(tmp_path / "run"), dataset=data)
    genuine = loop.Trainer.update

    def dies_at_15(trainer, step):
        if step == 15:
            raise KeyboardInterrupt
        return genuine(trainer, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "update", dies_at_15)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(folder, **longer), resume=True, dataset=data)
    train(tiny_config(folder, **longer), resume=True, dataset=data)
    assert_equal_runs(folder, train(tiny_config(tmp_path / "straight", **longer), dataset=data))


def test_a_run_that_died_before_its_first_checkpoint_holds_every_step_once(tmp_path, monkeypatch, capsys):
    from rl_transformer.training import loop

    def dies(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", dies)  # metrics are on disk by then
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(tmp_path / "run"), dataset=point_data())
    folder = train(tiny_config(tmp_path / "run"), resume=True, dataset=point_data())
    assert "no usable checkpoint: starting again from step 0" in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(folder)] == list(range(1, 13))


def test_a_refused_resume_changes_nothing_in_the_folder(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RLTransformerError, match="the data has changed"):
        train(tiny_config(folder, training={"train_steps": 20}), resume=True, dataset=point_data(seed=1))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_run_json_says_what_the_run_stood_on(tmp_path):
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


def test_runs_of_the_first_format_can_be_resumed(tmp_path):
    """The folder was written by version 0.1.0 after 4 updates; every later version must be able to go on."""
    released = Path(__file__).parents[1] / "released" / "run-format-1"
    shutil.copytree(released, tmp_path / "run")
    train(tiny_config(tmp_path / "run", **RELEASED_RUN, training={"train_steps": 8}), resume=True, dataset=point_data())
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == list(range(1, 9))


def test_resuming_with_another_option_is_refused_by_name(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    for section, name, value in (
        ("training", "learning_rate", 0.5),
        ("model", "n_layer", 1),
        ("training", "train_steps", 5),
    ):
        with pytest.raises(RLTransformerError, match=rf"{section}\.{name} is {value}"):
            train(tiny_config(folder, **{section: {name: value}}), resume=True, dataset=point_data())
    with pytest.raises(RLTransformerError, match="already and not empty"):
        train(tiny_config(folder), dataset=point_data())


def test_resuming_on_other_data_is_refused(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    with pytest.raises(RLTransformerError, match="the data has changed"):
        train(tiny_config(folder, training={"train_steps": 20}), resume=True, dataset=point_data(seed=1))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    data, folder = point_data(), tmp_path / "run"
    train(tiny_config(folder), dataset=data)
    shutil.copytree(folder, tmp_path / "whole")
    shutil.rmtree(folder / "policy")
    path = folder / "checkpoints/step-12/state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    train(tiny_config(folder), resume=True, dataset=data)
    said = capsys.readouterr().out
    assert "checkpoint step-12 is damaged and is not used" in said
    assert "resumed from step 8" in said
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
    (folder / "checkpoints/.step-3.tmp-dead").mkdir(parents=True)
    train(tiny_config(folder), resume=True, dataset=point_data())
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-12", "step-8"]


@pytest.mark.parametrize("planted", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_update_and_names_the_episodes(planted, tmp_path, monkeypatch):
    from rl_transformer.training import loop

    genuine, calls = loop.action_loss, []

    def poisoned(model, batch, **options):
        calls.append(batch)
        loss = genuine(model, batch, **options)
        if len(calls) < 7:
            return loss
        bad = next(model.parameters()).sum() * 0
        return loss + bad * math.inf if planted == "loss" else loss + torch.sqrt(bad.abs())  # slope of sqrt at 0

    monkeypatch.setattr(loop, "action_loss", poisoned)
    draw, drawn = WindowSampler.draw, {}
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


def test_state_and_return_heads_are_left_out_of_training():
    model = DecisionTransformerModel(DecisionTransformerConfig())
    assert not {n for n in trained_parameters(model) if n.startswith("predict_") and not n.startswith("predict_action")}
    assert set(trained_parameters(BehaviorCloningModel(DecisionTransformerConfig(), 2)))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_free_of_contradictions(name):
    config = preset(name)
    config.output, config.dataset.uri = "x", "rlt:y"
    config.check()


def test_the_gym_preset_is_the_published_recipe():
    config = preset("gym")
    t, m = config.training, config.model
    assert (t.train_steps, t.batch_size, t.learning_rate, t.warmup_steps, t.schedule) == (
        100_000,
        64,
        1e-4,
        10_000,
        "constant",
    )
    assert (t.weight_decay, t.decay, t.betas, t.max_gradient_norm) == (1e-4, "all", (0.9, 0.999), 0.25)
    assert (m.n_layer, m.n_head, m.hidden_size, m.n_inner, m.activation_function) == (3, 1, 128, None, "relu")
    assert (m.resid_pdrop, m.embd_pdrop, m.attn_pdrop, m.max_ep_len) == (0.1, 0.1, 0.1, 1000)
    assert (config.windows.context_length, config.windows.start, config.windows.return_balance) == (20, "any", 0)
    assert (config.returns.scale, config.returns.update) == (1000, "subtract")


def test_filters_leave_only_what_they_say(tmp_path):
    from rl_transformer.policy.make_spec import choose_trajectories

    data = telling_data((4, 7, 2, 9))
    config = tiny_config(tmp_path, dataset={"min_return": 250.0})
    assert choose_trajectories(data, data.episode_returns, config)[0].tolist() == [1, 2, 3]
    config = tiny_config(tmp_path, dataset={"max_trajectories": 3, "top_fraction": 0.2})
    assert choose_trajectories(data, data.episode_returns, config)[0].tolist() == [2]
    with pytest.raises(RLTransformerError, match="the largest is"):
        choose_trajectories(data, data.episode_returns, tiny_config(tmp_path, dataset={"min_return": 1e9}))


def test_tensorboard_files_are_written_if_asked(tmp_path):
    folder = train(tiny_config(tmp_path / "run", training={"tensorboard": True}), dataset=point_data())
    assert list((folder / "tensorboard").glob("events.*"))


def test_longer_episodes_than_the_table_are_said_and_held(tmp_path, capsys):
    folder = train(tiny_config(tmp_path / "run", model={"max_ep_len": 8}), dataset=point_data())
    assert "steps from 8 on share the last timestep embedding" in capsys.readouterr().out
    assert load_policy(folder).spec.model.max_ep_len == 8
