"""Claims about runs in bad surroundings: two trainers, failing evaluations, damaged files, numbers that are not finite."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_transformer import RLTransformerError, load_policy, open_trajectories, train
from rl_transformer.cli.main import main
from rl_transformer.launch.sweep import read_space, sweep
from rl_transformer.runtime import disk
from rl_transformer.runtime.disk import Disk
from rl_transformer.runtime.lock import owned
from rl_transformer.training import trainer as trainer_module
from rl_transformer.training.checkpoint import save_checkpoint
from rl_transformer.training.metrics import Metrics, read_metrics
from rl_transformer.trajectories import verified
from rl_transformer.trajectories.store import write_store
from tests.toys import POINT, PointEnv, point_data, tiny_config
from tests.training.runs import assert_equal_runs

EVALUATED = {"env_id": POINT, "target_returns": [4.0], "num_episodes": 2, "every": 4}


def rehash(folder, name):
    """Make the manifest fit a changed file."""
    import hashlib

    content = (folder / name).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Two trainers


def test_a_fingerprint_that_is_no_text_is_refused(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    (folder / "finished.json").unlink()
    checkpoint = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps({**state, "data_content": {}}))
    rehash(checkpoint, "state.json")
    with pytest.raises(RLTransformerError, match=r"data_content is \{\}, not str"):
        train(tiny_config(folder), dataset=point_data(), resume=True)


def test_a_second_trainer_in_one_folder_is_refused_and_told_who_trains(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with owned(folder / ".lock", what=folder), pytest.raises(RLTransformerError, match=f"process {os.getpid()}"):
        train(tiny_config(folder), dataset=point_data(), resume=True)
    assert list(folder.iterdir()) == []
    train(tiny_config(folder), dataset=point_data())
    assert ".lock" not in {path.name for path in folder.iterdir()}


def test_leftovers_of_killed_processes_go_when_the_run_is_resumed(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    (folder / "finished.json").unlink()
    (folder / ".run.json.tmp-0a1b2c3d").write_text("half")
    (folder / ".policy.tmp-0a1b2c3d").mkdir()
    train(tiny_config(folder), dataset=point_data(), resume=True)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Evaluations that fail


class Unreliable(PointEnv):
    """An environment that fails after a number of resets; its constructor works."""

    resets = 0
    fails_from = 3

    def reset(self, **kwargs):
        type(self).resets += 1
        if type(self).resets >= type(self).fails_from:
            raise OSError("the simulator has lost its licence")
        return super().reset(**kwargs)


@pytest.fixture
def unreliable():
    gym.register("tests/Unreliable-v0", entry_point=Unreliable)
    Unreliable.resets = 0
    yield "tests/Unreliable-v0"
    del gym.registry["tests/Unreliable-v0"]


def test_an_evaluation_that_raises_costs_neither_updates_nor_the_policy(unreliable, tmp_path, capsys):
    plain = train(tiny_config(tmp_path / "plain"), dataset=point_data())
    config = tiny_config(tmp_path / "run", evaluation={**EVALUATED, "env_id": unreliable})
    run = train(config, dataset=point_data())
    printed = capsys.readouterr()
    assert "the evaluation failed, and training continues" in printed.err
    assert "the simulator has lost its licence" in printed.err
    assert "there is no report.json" in printed.out
    rows = read_metrics(run)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "return_at_4" in row] == [4]  # the first one worked
    assert not (run / "report.json").exists()
    for name, tensor in load_policy(plain).model.state_dict().items():
        assert torch.equal(tensor, load_policy(run).model.state_dict()[name])


def test_a_run_may_be_told_to_stop_and_its_updates_are_saved(unreliable, tmp_path):
    Unreliable.fails_from, before = 1, Unreliable.fails_from
    try:
        config = tiny_config(
            tmp_path / "run", evaluation={**EVALUATED, "env_id": unreliable, "on_error": "stop", "every": 6}
        )
        with pytest.raises(RLTransformerError, match="lost its licence"):
            train(config, dataset=point_data())
        assert (tmp_path / "run/checkpoints/step-6/manifest.json").exists()
    finally:
        Unreliable.fails_from = before
    # Options of the evaluation may change, so the run does not die there again.
    config = tiny_config(tmp_path / "run", evaluation={**EVALUATED, "every": 6})
    assert_equal_runs(
        train(config, dataset=point_data(), resume=True),
        train(tiny_config(tmp_path / "whole", evaluation={**EVALUATED, "every": 6}), dataset=point_data()),
    )


class Slow(PointEnv):
    """An environment whose steps take longer than anybody waits."""

    in_step = threading.Event()

    def step(self, action):
        self.in_step.set()
        time.sleep(30)
        return super().step(action)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_an_evaluation_is_answered_at_once_and_the_run_resumes_to_the_bit(number, tmp_path):
    gym.register("tests/Slow-v0", entry_point=Slow)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored, and means it
    try:
        config = tiny_config(tmp_path / "run", evaluation={**EVALUATED, "env_id": "tests/Slow-v0", "every": 6})
        began = []

        def send():
            Slow.in_step.wait(60)  # not before: an import that is interrupted leaves files open
            assert (tmp_path / "run/checkpoints/step-6/manifest.json").exists()
            time.sleep(0.5)  # until it sleeps: a signal just before that is noticed when it wakes
            began.append(time.monotonic())
            os.kill(os.getpid(), number)

        Slow.in_step.clear()
        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(trainer_module.Interrupted) as caught:
            train(config, dataset=point_data())
        assert time.monotonic() - began[0] < 5  # a step takes thirty seconds
        assert caught.value.exit_code == 128 + number
        sender.join()
    finally:
        del gym.registry["tests/Slow-v0"]
        signal.signal(number, before)
    again = tiny_config(tmp_path / "run", evaluation={**EVALUATED, "every": 6})
    whole = tiny_config(tmp_path / "whole", evaluation={**EVALUATED, "every": 6})
    assert_equal_runs(train(again, dataset=point_data(), resume=True), train(whole, dataset=point_data()))


def test_nohup_keeps_its_meaning():
    code = (
        "import os, signal\nfrom rl_transformer.runtime.signals import StopSignals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with StopSignals() as signals:\n    os.kill(os.getpid(), signal.SIGHUP)\n    print(signals.received)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "None\n"


def test_workers_end_with_their_parent():
    code = (
        "import os, time\nfrom rl_transformer.runtime.workers import run_in_processes\n"
        # One write each: of two workers that print at once, a line's end may come after the other's line.
        "def work(which):\n    os.write(1, f'{os.getpid()}\\n'.encode())\n    time.sleep(60)\n"
        "run_in_processes(work, 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 10
    while any(is_running(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Numbers that are not finite


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    objective = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(objective.parameters())
    save_checkpoint(tmp_path, 1, objective, optimizer, None, {})
    with torch.no_grad():
        objective["model"].weight[0, 0] = float("inf")
    with pytest.raises(RLTransformerError, match=r"model\.weight holds NaN or infinite") as caught:
        save_checkpoint(tmp_path, 2, objective, optimizer, None, {})
    assert caught.value.where == "update 2"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_large_finite_weights_are_saved(tmp_path):
    """Their sum overflows, which is no sign of an infinite one."""
    objective = torch.nn.ModuleDict({"model": torch.nn.Linear(64, 64)})
    torch.nn.init.constant_(objective["model"].weight, 3e38)
    save_checkpoint(tmp_path, 1, objective, torch.optim.AdamW(objective.parameters()), None, {})


def test_a_learning_rate_that_destroys_the_weights_ends_with_a_message_and_no_policy(tmp_path, capsys):
    data = point_data()
    store = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data)))).location
    command = [
        "train",
        "gym",
        "--data",
        store,
        "--output",
        str(tmp_path / "run"),
        "--train-steps",
        "1",
        "--training.threads",
        "1",
    ]
    more = [
        "--training.learning_rate",
        "1e38",
        "--training.warmup_steps",
        "0",
        "--model.hidden_size",
        "8",
        "--model.n_layer",
        "1",
    ]
    assert main([*command, *more, "--windows.context_length", "3"]) == 2
    assert "lower training.learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "run/policy").exists()


def test_a_checkpoint_with_a_number_that_is_not_finite_is_refused(tmp_path):
    folder = train(tiny_config(tmp_path / "run"), dataset=point_data())
    (folder / "finished.json").unlink()
    newest = folder / "checkpoints/step-12"
    tensors = load_file(newest / "state.safetensors")
    name = next(name for name in tensors if name.startswith("exp_avg_sq."))
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, newest / "state.safetensors", metadata={"format": "pt"})
    rehash(newest, "state.safetensors")
    with pytest.raises(RLTransformerError, match="holds NaN or infinite") as caught:
        train(tiny_config(folder), dataset=point_data(), resume=True)
    assert "resume from the one before" in caught.value.fix
    shutil.rmtree(newest)
    train(tiny_config(folder), dataset=point_data(), resume=True)


@pytest.mark.parametrize("kind", ["exp_avg_sq.", "average."])
def test_a_checkpoint_without_a_part_of_the_state_is_refused(kind, tmp_path):
    config = {"training": {"ema_decay": 0.9}}
    folder = train(tiny_config(tmp_path / "run", **config), dataset=point_data())
    (folder / "finished.json").unlink()
    newest = folder / "checkpoints/step-12"
    tensors = load_file(newest / "state.safetensors")
    lost = [name for name in tensors if name.startswith(kind)][-1]
    del tensors[lost]
    save_file(tensors, newest / "state.safetensors", metadata={"format": "pt"})
    rehash(newest, "state.safetensors")
    with pytest.raises(RLTransformerError, match="lacks"):
        train(tiny_config(folder, **config), dataset=point_data(), resume=True)


# Rows of metrics.jsonl


def rows(*steps):
    """Return lines of updates; a step as text is that of an evaluation, and None a damaged line."""
    lines = []
    for step in steps:
        if step is None:
            lines.append('{"step": 3, "lo')
        elif isinstance(step, str):
            lines.append(json.dumps({"step": int(step), "return_at_4": 1.0}))
        else:
            lines.append(json.dumps({"step": step, "loss": 0.1, "gradient_norm": 0.2}))
    return lines


@pytest.mark.parametrize(
    ("steps", "evaluated", "kept"),
    [
        ((1, 2, 3, 4), False, 3),
        ((1, 2, 3, "3", 4), True, 4),
        ((1, 2, 3, "3", 4), False, 3),  # that evaluation will be made again
        ((1, 2, "2", 3, 4, None), False, 4),
        ((1, 2, 3, None), False, 3),
        ((1, 2, 3), False, 3),
    ],
)
def test_rows_up_to_the_checkpoint_are_kept_once(steps, evaluated, kept, tmp_path):
    lines = rows(*steps)
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert Metrics(tmp_path).truncate_after(3, evaluated=evaluated) is (kept < len(lines))
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:kept]


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ((1, None, 2, 3, 4), 2), ((1, 3, 4), 2), ((1, 2), 3), ((1, 2, 2, 3), 3), ((2, 3), 1), ((), 1), ((None, 1, 2, 3), 1),
        ((1, 2, "2", "2", 3), 4), (("0", 1, 2, 3), 1), ((1, 2, "1", 3), 3),
    ],
)  # fmt: skip
def test_rows_that_are_damaged_missing_or_there_twice_are_named(steps, line, tmp_path):
    text = "".join(f"{row}\n" for row in rows(*steps))
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(RLTransformerError, match=f"line {line} is not the row of update") as caught:
        Metrics(tmp_path).truncate_after(3)
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert "move it away" in caught.value.fix
    (tmp_path / "metrics.jsonl").unlink()
    assert Metrics(tmp_path).truncate_after(3) is False  # the advice works
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("".join(f"{row}\n" for row in rows(4, "4", 5, 6)))
    assert Metrics(tmp_path).truncate_after(5) is True  # and goes on working
    assert [json.loads(row)["step"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [3, 4, 4, 5]


# Data that changes


@pytest.fixture
def store(tmp_path):
    data = point_data()
    return write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data)))).location


def flip(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_flipped_bit_in_a_column_is_found_before_training(store, tmp_path):
    flip(tmp_path / "store/observations.npy")
    with pytest.raises(RLTransformerError, match="SHA-256 differs") as caught:
        train(tiny_config(tmp_path / "run", dataset={"uri": store}))
    assert str(caught.value.where).endswith("observations.npy")
    with pytest.raises(RLTransformerError, match="SHA-256 differs"):
        train(tiny_config(tmp_path / "run"), dataset=open_trajectories(store))
    assert not (tmp_path / "run").exists()


def test_columns_are_hashed_once_and_again_after_a_change(store, tmp_path, monkeypatch):
    hashed = []
    genuine = verified.verify_folder
    monkeypatch.setattr(verified, "verify_folder", lambda folder: hashed.append(folder) or genuine(folder))
    for seed in range(3):
        train(tiny_config(tmp_path / f"run-{seed}", dataset={"uri": store}))
    assert len(hashed) == 1
    path = tmp_path / "store/rewards.npy"
    os.utime(path, ns=(1, 1))  # touched, and still the same
    train(tiny_config(tmp_path / "run-3", dataset={"uri": store}))
    assert len(hashed) == 2
    flip(path)
    with pytest.raises(RLTransformerError, match="SHA-256 differs"):
        train(tiny_config(tmp_path / "run-4", dataset={"uri": store}))


def test_columns_that_changed_between_stop_and_resume_are_noticed_even_if_the_hashes_follow(store, tmp_path):
    folder = train(tiny_config(tmp_path / "run", dataset={"uri": store}))
    (folder / "finished.json").unlink()
    rewards = np.load(tmp_path / "store/rewards.npy")
    np.save(tmp_path / "store/rewards.npy", rewards + 1e-3)
    rehash(tmp_path / "store", "rewards.npy")
    with pytest.raises(RLTransformerError, match="the data has changed since the checkpoint was written"):
        train(tiny_config(folder, dataset={"uri": store}), resume=True)


def changed_at_update_6(monkeypatch, change):
    genuine = trainer_module.Trainer.record

    def record(trainer, step, result):
        genuine(trainer, step, result)
        if step == 6:
            change()

    monkeypatch.setattr(trainer_module.Trainer, "record", record)


@pytest.mark.parametrize("number", [0.5, 1e30])  # the second one makes the loss infinite, which blamed the episodes
def test_a_column_that_is_overwritten_while_it_is_read_is_never_saved(number, store, tmp_path, monkeypatch):
    path = tmp_path / "store/actions.npy"
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        changed_at_update_6(patch, lambda: path.write_bytes(content[:128] + np.full(480, number, "f4").tobytes()))
        with pytest.raises(RLTransformerError, match="was changed while training read it") as caught:
            train(tiny_config(tmp_path / "run", dataset={"uri": store}))
    assert caught.value.where == str(path)
    assert [folder.name for folder in (tmp_path / "run/checkpoints").iterdir()] == ["step-4"]
    with pytest.raises(RLTransformerError, match="SHA-256 differs"):
        train(tiny_config(tmp_path / "run", dataset={"uri": store}), resume=True)
    path.write_bytes(content)  # the advice works
    train(tiny_config(tmp_path / "run", dataset={"uri": store}), resume=True)
    assert_equal_runs(tmp_path / "run", train(tiny_config(tmp_path / "whole", dataset={"uri": store})))


@pytest.mark.parametrize("harmless", ["touched", "replaced", "removed"])
def test_a_store_that_is_touched_replaced_or_removed_while_it_is_mapped_does_no_harm(
    harmless, store, tmp_path, monkeypatch
):
    folder = tmp_path / "store"
    whole = train(tiny_config(tmp_path / "whole", dataset={"uri": store}))
    other = point_data(seed=1)
    change = {
        "touched": lambda: os.utime(folder / "actions.npy", ns=(1, 1)),
        "replaced": lambda: (
            shutil.rmtree(folder),
            write_store(folder, other.spec, (other.trajectory(i) for i in range(len(other)))),
        ),
        "removed": lambda: shutil.rmtree(folder),
    }
    changed_at_update_6(monkeypatch, change[harmless])
    assert_equal_runs(whole, train(tiny_config(tmp_path / "run", dataset={"uri": store})))


def test_a_column_that_is_cut_while_it_is_read_ends_with_a_message_and_the_run_goes_on_once_restored(tmp_path):
    """SIGBUS cannot be caught: the system ends the process, which prints where it was."""
    data = point_data(400)
    store = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(len(data)))).location
    code = (
        "import os, sys\nfrom rl_transformer.training.trainer import Trainer\n"
        "genuine = Trainer.record\n"
        "def record(trainer, step, result):\n"
        "    genuine(trainer, step, result)\n"
        f"    if step == 6: os.truncate({str(tmp_path / 'store/observations.npy')!r}, 4000)\n"
        "Trainer.record = record\n"
        "from rl_transformer.cli.main import entry\nentry()"
    )
    words = ["train", "gym", "--data", store, "--output", str(tmp_path / "run"), "--train-steps", "12"]
    small = ["--model.hidden_size", "8", "--windows.context_length", "3", "--training.checkpoint_every", "4", "--training.warmup_steps", "2"]  # fmt: skip
    content = (tmp_path / "store/observations.npy").read_bytes()
    ended = subprocess.run([sys.executable, "-c", code, *words, *small], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGBUS
    assert "Bus error" in ended.stderr
    assert "gathering.py" in ended.stderr
    with pytest.raises(RLTransformerError, match=r"has 4000 bytes, not the \d+ that were written"):
        open_trajectories(store)
    (tmp_path / "store/observations.npy").write_bytes(content)
    assert main([*words, *small, "--resume"]) == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rewards", lambda a: a.astype(np.float32)), ("actions", lambda a: a.astype(np.float64)), ("observations", lambda a: a.astype(">f4")),
        ("returns_to_go", lambda a: a.astype(complex)), ("observations", lambda a: a.astype("S8")), ("rewards", lambda a: a.astype("M8[s]")),
    ],
)  # fmt: skip
def test_a_column_of_another_type_is_refused(name, change, store, tmp_path):
    np.save(tmp_path / f"store/{name}.npy", change(np.load(tmp_path / f"store/{name}.npy")))
    rehash(tmp_path / "store", f"{name}.npy")
    with pytest.raises(RLTransformerError, match="shapes or types are not those of a store"):
        open_trajectories(store)


def test_a_damaged_header_of_a_column_is_one_message(store, tmp_path):
    path = tmp_path / "store/rewards.npy"
    content = path.read_bytes()
    for at in range(6, 100):
        damaged = bytearray(content)
        damaged[at] ^= 0x15
        path.write_bytes(bytes(damaged))
        rehash(tmp_path / "store", "rewards.npy")
        with contextlib.suppress(RLTransformerError):
            open_trajectories(store)


# Full disks


class FullDisk(Disk):
    """A disk that is full from a number of writes on."""

    left = 0

    def save_tensors(self, path, tensors):
        if self.left <= 0:
            raise OSError(28, "No space left on device")
        self.left -= 1
        super().save_tensors(path, tensors)


def test_a_full_disk_is_not_recorded_as_a_trial_that_cannot_work(tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text("training.learning_rate: {low: 1.0e-4, high: 1.0e-3}")
    config = tiny_config(tmp_path / "sweep", dataset={"validation_fraction": 0.2})
    space = read_space(tmp_path / "space.yaml", config)
    full = FullDisk()
    monkeypatch.setattr(disk, "DISK", full)
    with pytest.raises(RLTransformerError, match="No space left"):
        sweep(config, space, num_trials=2, dataset=point_data())
    full.left = 99
    result = sweep(config, space, num_trials=2, dataset=point_data())
    assert all(trial["score"] is not None for trial in result["trials"])


def test_a_torn_line_of_a_search_is_cut_off_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "space.yaml").write_text("training.learning_rate: {low: 1.0e-4, high: 1.0e-3}")
    config = tiny_config(tmp_path / "sweep", dataset={"validation_fraction": 0.2})
    space = read_space(tmp_path / "space.yaml", config)
    sweep(config, space, num_trials=1, dataset=point_data())
    journal = tmp_path / "sweep/journal.log"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')
    assert len(sweep(config, space, num_trials=2, dataset=point_data())["trials"]) == 2
    journal.write_text(journal.read_text().replace('"op_code"', '"op_co', 1))
    with pytest.raises(RLTransformerError, match="holds a damaged line") as caught:
        sweep(config, space, num_trials=3, dataset=point_data())
    assert str(caught.value.where).endswith("journal.log")


def test_a_disk_without_room_is_noticed_before_the_first_update(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(RLTransformerError, match="the checkpoints and the policy of this run take") as caught:
        train(tiny_config(tmp_path / "run"), dataset=point_data())
    assert "free disk space" in caught.value.fix
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_the_estimated_size_is_that_of_the_checkpoints(tmp_path):
    folder = train(tiny_config(tmp_path / "run", model={"hidden_size": 256}), dataset=point_data())
    written = (folder / "checkpoints/step-12/state.safetensors").stat().st_size
    from rl_transformer.launch.seeds import assemble_run

    run = assemble_run(tiny_config(tmp_path / "other", model={"hidden_size": 256}), point_data())
    training = run.config.training
    kept = min(training.keep_checkpoints, 3)  # 12 updates, one checkpoint every 4
    assert run.trainer.bytes_to_write() == pytest.approx(written * (kept + 2), rel=0.02)
    training.keep_checkpoints = 10**6  # all of them: no more than the run makes
    assert run.trainer.bytes_to_write() == pytest.approx(written * 5, rel=0.02)
    shutil.copytree(folder / "checkpoints", run.trainer.checkpoints)
    run.trainer.step = 12
    assert run.trainer.bytes_to_write() == pytest.approx(written * 2, rel=0.02)  # the others are there


# Files of others


def d4rl_file(path, rewards, **options):
    """Write a D4RL file of 3,000 steps."""
    import h5py

    random = np.random.default_rng(0)
    ends = np.zeros(len(rewards), bool)
    ends[19::20] = True
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", data=random.normal(size=(len(rewards), 8)).astype("f4"), **options)
        for name, values in (("actions", random.random((len(rewards), 1)).astype("f4")), ("rewards", rewards)):
            file[name] = values
        file["terminals"] = ends
        file["timeouts"] = np.zeros(len(rewards), bool)


def test_a_damaged_compressed_chunk_is_one_message_that_names_the_file(tmp_path, capsys):
    path = tmp_path / "data.hdf5"
    d4rl_file(path, np.ones(3000), compression="gzip", chunks=(500, 8))
    whole = path.read_bytes()
    refused = 0
    for at in range(4000, 60_000, 4000):
        path.write_bytes(whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 3]) + whole[at + 3 :])
        if main(["inspect", f"d4rl:{path}"]) != 0:
            refused += 1
            assert str(path) in capsys.readouterr().err
    assert refused > 5


def test_returns_that_leave_no_room_for_a_histogram_are_drawn(tmp_path):
    d4rl_file(tmp_path / "large.hdf5", np.full(60, 1e200))
    arguments = ["--json", str(tmp_path / "report.json"), "--figure", str(tmp_path / "report.png")]
    assert main(["inspect", f"d4rl:{tmp_path / 'large.hdf5'}", *arguments]) in (0, 1, 2)
    assert (tmp_path / "report.png").stat().st_size > 0
    assert json.loads((tmp_path / "report.json").read_text())


def test_an_error_of_reading_is_not_blamed_on_the_store_that_is_written(tmp_path):
    data = point_data(2)

    def episodes():
        yield data.trajectory(0)
        raise OSError("the disk that is read is broken")

    with pytest.raises(RLTransformerError, match="cannot be read: the disk that is read is broken") as caught:
        write_store(tmp_path / "store", data.spec, episodes())
    assert str(tmp_path) not in str(caught.value.where)
    assert list(tmp_path.iterdir()) == []
