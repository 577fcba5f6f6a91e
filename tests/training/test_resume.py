"""Claims about resumed runs: they are the uninterrupted run to the bit, or they are refused."""

import pytest
import torch

from rl_transformer import RLTransformerError, train
from rl_transformer.config import PRESETS, preset
from rl_transformer.runtime.reading import read_json
from rl_transformer.training.metrics import read_metrics
from tests.toys import POINT, camera_data, point_data, tiny_config
from tests.training.runs import assert_equal_runs, cut_after, stored_tensors

OPTIONS = {
    "published": {},
    "EMA and cosine": {"training": {"ema_decay": 0.9, "schedule": "cosine"}},
    "cosine longer than the run": {"training": {"schedule": "cosine", "schedule_steps": 30}},
    "bfloat16": {"training": {"precision": "bfloat16"}},
    "entropy": {"model": {"action_head": "gaussian"}, "training": {"entropy_weight": 0.1}},
    "held out": {"dataset": {"validation_fraction": 0.2}, "evaluation": {"every": 4}},
    "mlp": {"model": {"arch": "behavior_cloning"}},
}
LONGER = {"training": {"train_steps": 20}}


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
        cut_after(whole, cut, step)
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
    cut_after(whole, cut, 4)
    genuine = checkpoint.parse_tensors

    def forgetful(content, **where):
        tensors = genuine(content, **where)
        assert any(name.startswith(forgotten) for name in tensors)
        return {k: torch.zeros_like(t) if k.startswith(forgotten) else t for k, t in tensors.items()}

    monkeypatch.setattr(checkpoint, "parse_tensors", forgetful)
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


EXTENDED = {
    "constant": {"schedule": "constant"},
    "cosine, its length set from the start": {"schedule": "cosine", "schedule_steps": 20},
}


@pytest.mark.parametrize("name", EXTENDED)
def test_an_extended_run_is_the_uninterrupted_run_to_the_bit(name, tmp_path):
    data = point_data()
    longer = {"training": EXTENDED[name] | LONGER["training"]}
    whole = train(tiny_config(tmp_path / "whole", **longer), dataset=data)
    for steps in (1, 3, 12, 19):
        folder = tmp_path / f"cut-{steps}"
        train(tiny_config(folder, training=EXTENDED[name] | {"train_steps": steps}), dataset=data)
        train(tiny_config(folder, **longer), resume=True, dataset=data)
        assert_equal_runs(whole, folder)
    if "schedule_steps" in EXTENDED[name]:
        with pytest.raises(RLTransformerError, match="which was set when it began") as refused:
            train(tiny_config(folder, training={"schedule": "cosine", "train_steps": 25}), resume=True, dataset=data)
        assert "repeat --training.schedule_steps 20" in refused.value.fix
    # The schedule may also be left to its default, once the run is as long as it.
    train(tiny_config(folder, training={**longer["training"], "schedule_steps": None}), resume=True, dataset=data)


def test_a_cosine_that_ended_is_extended_only_with_a_schedule_that_the_user_names(tmp_path, capsys):
    """A cosine ends at train_steps, so a longer run had other learning rates than one of that length from the start."""
    cosine = {"schedule": "cosine"}
    data = point_data()
    folder = train(tiny_config(tmp_path / "run", training=cosine), dataset=data)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RLTransformerError, match="falls to zero along a cosine of 12 updates") as refused:
        train(tiny_config(folder, training=cosine | LONGER["training"]), resume=True, dataset=data)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    for cure in ("train into another folder with --train-steps 20", "--training.schedule_steps 20"):
        assert cure in refused.value.fix
    named = cosine | LONGER["training"] | {"schedule_steps": 20}
    train(tiny_config(folder, training=named), resume=True, dataset=data)
    assert (
        "note: the schedule now spans 20 updates instead of 12: learning rate 0 at update 12" in capsys.readouterr().out
    )
    assert read_json(folder / "run.json", fix="")["schedule_changes"] == [{"after_update": 12, "before": 12, "now": 20}]
    whole = train(tiny_config(tmp_path / "whole", training=named), dataset=data)
    rows, others = read_metrics(folder), read_metrics(whole)
    assert [row["learning_rate"] for row in rows[12:]] == [row["learning_rate"] for row in others[12:]]
    assert rows[5] != others[5]
    # Repeated, the command finds the run finished, and the record remains.
    train(tiny_config(folder, training=named), resume=True, dataset=data)
    assert read_json(folder / "run.json", fix="")["schedule_changes"]


def test_a_run_whose_labels_come_from_a_model_of_the_same_length_is_not_extended(tmp_path):
    expected = {"returns": {"label": "expected", "bins": 5}}
    folder = train(tiny_config(tmp_path / "run", **expected), dataset=point_data())
    with pytest.raises(RLTransformerError, match="the return model that labels its data"):
        train(tiny_config(folder, **expected, **LONGER), resume=True, dataset=point_data())


# Sizes of a run of seconds; everything else is the preset's.
SMALL = {
    "model.hidden_size": 16,
    "model.n_layer": 1,
    "windows.context_length": 12,
    "training.train_steps": 8,
    "training.batch_size": 4,
    "training.threads": 1,
    "training.checkpoint_every": 1,
    "training.keep_checkpoints": 99,
}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resumes_at_every_step_to_the_bit_under_both_schedules(name, schedule, tmp_path):
    data = camera_data() if name in ("image", "atari") else point_data()

    def config(folder):
        config = preset(name)
        config.output = str(folder)
        config.dataset.uri = "memory"
        for option, value in {**SMALL, "training.schedule": schedule}.items():
            config.set(option, value)
        config.training.warmup_steps = min(config.training.warmup_steps, 3)
        return config

    whole = train(config(tmp_path / "whole"), dataset=data)
    for step in (1, 2, 5, 7):
        cut = tmp_path / f"cut-{step}"
        cut_after(whole, cut, step)
        train(config(cut), resume=True, dataset=data)
        assert_equal_runs(whole, cut)
    longer = config(cut)
    longer.training.train_steps = 10
    if schedule == "cosine":
        with pytest.raises(RLTransformerError, match="schedule_steps"):
            train(longer, resume=True, dataset=data)
    else:
        straight = config(tmp_path / "straight")
        straight.training.train_steps = 10
        assert_equal_runs(train(longer, resume=True, dataset=data), train(straight, dataset=data))


@pytest.mark.parametrize(
    "options",
    [
        {"training": {"checkpoint_every": 3}},
        {"training": {"keep_checkpoints": 9, "tensorboard": True}},
        {"evaluation": {"env_id": POINT, "every": 7, "num_episodes": 2}},
        {"dataset": {"uri": "moved"}},
    ],
    ids=str,
)
def test_what_does_not_change_learning_may_differ_when_a_run_is_resumed(options, tmp_path, monkeypatch):
    """Reported as ray#28082: a run could not be resumed after its data had moved."""
    whole = train(tiny_config(tmp_path / "whole"), dataset=point_data())
    cut = tmp_path / "cut"
    cut_after(whole, cut, 8)
    train(tiny_config(cut, **options), resume=True, dataset=point_data())
    tensors = stored_tensors(whole)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in stored_tensors(cut).items())


def test_a_finished_run_names_options_that_come_too_late_and_data_that_is_not_its_own(tmp_path, capsys):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    train(
        tiny_config(folder, evaluation={"env_id": POINT}, dataset={"uri": "moved"}), resume=True, dataset=point_data()
    )
    assert "is finished, so evaluation.env_id has no effect" in capsys.readouterr().out
    with pytest.raises(RLTransformerError, match="is a finished run on other data"):
        train(tiny_config(folder), resume=True, dataset=point_data(seed=1))


def test_another_number_of_threads_is_allowed_and_said(tmp_path, capsys):
    """The advice for a busy machine is fewer threads, and it must not cost the updates that were made."""
    folder = train(tiny_config(tmp_path / "run", training={"threads": 2}), dataset=point_data())
    train(tiny_config(folder, training={"threads": 1, "train_steps": 14}), resume=True, dataset=point_data())
    assert "not bit-exact with the uninterrupted run: threads 2 -> 1" in capsys.readouterr().out
