"""Claims about bad input on the command line: one message that says where, what and how to fix it, and nothing written."""

import json
from pathlib import Path

import h5py
import numpy as np

from rl_transformer.cli.main import main
from tests.cli.conftest import QUICK
from tests.toys import POINT


def damaged(path: Path, name: str, change) -> Path:
    path = path / name
    path.write_bytes(bytes(change(bytearray(path.read_bytes()))))
    return path


def bad_inputs(ready, tmp):
    """Forty ways to go wrong: arguments, and what the message must name."""
    store, run = f"rlt:{ready / 'store'}", str(ready / "run")
    out = str(tmp / "out")
    train = ["train", "gym", "--data", store, "--output", out, *QUICK]
    score = ["evaluate", run, "--env-id", POINT, "--num-episodes", "1", "--target-return", "3"]
    (tmp / "text.hdf5").write_text("not HDF5")
    (tmp / "empty").mkdir()
    (tmp / "options.yaml").write_text("training: {train_stepz: 5}")
    (tmp / "broken.yaml").write_text("training: [")
    (tmp / "some.yaml").write_text("training: {batch_size: 4}")
    stored = json.loads((ready / "run/config.json").read_text())
    del stored["preset"]  # as an earlier version wrote it
    (tmp / "complete.json").write_text(json.dumps(stored))
    (tmp / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp / "foreign").mkdir()
    (tmp / "foreign/config.json").write_text("{}")
    with h5py.File(tmp / "nan.hdf5", "w") as file:
        columns = {"observations": np.full((4, 2), np.nan), "actions": np.zeros((4, 1)), "rewards": np.zeros(4)}
        file.update({**columns, "terminals": np.arange(4) == 3, "timeouts": np.zeros(4)})
    with h5py.File(tmp / "endless.hdf5", "w") as file:
        columns = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "rewards": np.zeros(4)}
        file.update({**columns, "terminals": np.zeros(4), "timeouts": np.zeros(4)})

    def with_data(uri):
        return ["train", "gym", "--data", uri, "--output", out, *QUICK]

    return {
        "no command": ([], "no command is given"),
        "unknown command": (["trian"], "trian"),
        "unknown preset": (["train", "gim", "--data", store, "--output", out], "gim"),
        "unknown option": ([*train, "--training.lr", "1"], "training.lr"),
        "wrong type": ([*train, "--training.batch_size", "many"], "batch_size"),
        "not among the choices": ([*train, "--training.schedule", "linear"], "schedule"),
        "no output": (["train", "gym", "--data", store], "output"),
        "no data": (["train", "gym", "--output", out], "dataset.uri"),
        "flag and field differ": ([*train, "--training.train_steps", "9"], "--train-steps"),
        "unknown field in a file": ([*train, "--config", str(tmp / "options.yaml")], "train_stepz"),
        "broken file": ([*train, "--config", str(tmp / "broken.yaml")], "broken.yaml"),
        "no such file": ([*train, "--config", str(tmp / "nowhere.yaml")], "nowhere.yaml"),
        "unknown scheme": (with_data("ftp:x"), "ftp"),
        "no such d4rl file": (with_data("d4rl:/nowhere.hdf5"), "/nowhere.hdf5: no such file"),
        "not HDF5": (with_data(f"d4rl:{tmp / 'text.hdf5'}"), "text.hdf5: cannot be read as HDF5"),
        "NaN in the data": (
            with_data(f"d4rl:{tmp / 'nan.hdf5'}"),
            "episode 0, step 0, feature 0, observations: is NaN",
        ),
        "no episode ends": (with_data(f"d4rl:{tmp / 'endless.hdf5'}"), "no episode of the 4 steps ends"),
        "no such store": (with_data("rlt:/nowhere"), "/nowhere: no such folder"),
        "an empty folder as store": (with_data(f"rlt:{tmp / 'empty'}"), "holds no store: it is empty"),
        "malformed Minari id": (with_data("minari:../x-v0"), "not a Minari id"),
        "no such Minari set": (with_data("minari:no/such-v0"), "no such dataset"),
        "output holds something": (
            ["train", "gym", "--data", store, "--output", run, *QUICK],
            "exists already and is not empty",
        ),
        "output is a file": (
            ["train", "gym", "--data", store, "--output", str(tmp / "text.hdf5"), *QUICK],
            "text.hdf5",
        ),
        "output below a file": (
            ["train", "gym", "--data", store, "--output", str(tmp / "text.hdf5/x"), *QUICK],
            "text.hdf5",
        ),
        "resume with another option": (
            ["train", "gym", "--data", store, "--output", run, *QUICK, "--resume", "--seed", "9"],
            "training.seed",
        ),
        "a file that is not text": ([*train, "--config", str(tmp / "bytes.yaml")], "not text"),
        "no preset": (["train", "--data", store, "--output", out], "no preset is named"),
        "another preset than the file's": (
            ["train", "fast", "--config", f"{run}/config.json", "--output", out],
            "names the preset 'gym', and 'fast' is given",
        ),
        "a preset beside a file that sets everything": (
            ["train", "fast", "--config", str(tmp / "complete.json"), "--output", out],
            "leave fast out",
        ),
        "a file of some options, and no preset": (
            ["train", "--config", str(tmp / "some.yaml"), "--output", out],
            "no preset is named",
        ),
        "a clip that turns rewards around": ([*train, "--returns.reward_clip", "-1"], "returns.reward_clip"),
        "an evaluation that cannot be": ([*train, "--evaluation.env_id", "Nowhere-v0"], "Nowhere-v0"),
        "a store onto a file": (
            ["convert", f"d4rl:{tmp / 'nan.hdf5'}", "--output", str(tmp / "text.hdf5")],
            "text.hdf5",
        ),
        "a report into a folder": ([*score, "--json", str(tmp / "empty")], "empty: cannot be written"),
        "a figure of another kind": (["inspect", store, "--figure", str(tmp / "f.xyz")], "does not end with .png"),
        "a seed below 0": (["collect", POINT, "--output", out, "--num-episodes", "1", "--seed", "-4"], "seed -4"),
        "a folder that is no run": (
            [*train[:4], "--output", str(tmp / "foreign"), *QUICK, "--resume"],
            "run.json: no such file",
        ),
        "no updates": (
            ["train", "gym", "--data", store, "--output", out, "--train-steps", "0"],
            "training.train_steps",
        ),
        "heads that do not divide": ([*train, "--model.n_head", "3"], "n_head=3"),
        "a head for other actions": ([*train, "--model.action_head", "discrete"], "model.action_head"),
        "frames of vectors": ([*train, "--model.frame_stack", "4"], "model.frame_stack"),
        "no such device": ([*train, "--training.device", "abacus"], "training.device=abacus"),
        "everything held out": ([*train, "--dataset.validation_fraction", "1.0"], "validation_fraction"),
        "a return nobody reached": ([*train, "--dataset.min_return", "1e9"], "dataset.min_return"),
        "no such run": (["evaluate", "/nowhere", "--env-id", POINT], "/nowhere: no such folder"),
        "no environment named": (["evaluate", run], "env"),
        "no such environment": (["evaluate", run, "--env-id", "Hoper-v5"], "did you mean Hopper-v5"),
        "another environment": (
            ["evaluate", run, "--env-id", "CartPole-v1", "--target-return", "3"],
            "CartPole-v1: its observations",
        ),
        "a target that is no number": ([*score[:-1], "high"], "target"),
        "a target that is not finite": ([*score[:-1], "nan"], "nan"),
        "a target for cloning": (["evaluate", str(ready / "bc"), *score[2:]], "takes no target return"),
        "no episodes": ([*score, "--num-episodes", "0"], "num_episodes"),
        "an unknown reference": ([*score, "--reference", "chess"], "chess"),
        "an unknown kind of video": ([*score, "--video", str(tmp / "v.avi")], "v.avi"),
        "a figure without data": ([*score, "--figure", str(tmp / "f.png")], "--data"),
        "a demo over something": (["demo", "--output", str(ready)], "which no demo wrote"),
        "no episodes to collect": (["collect", POINT, "--output", out, "--num-episodes", "0"], "--num-episodes"),
        "a target for random actions": (
            ["collect", POINT, "--output", out, "--num-episodes", "1", "--target-return", "3"],
            "--target-return",
        ),
        "a target cost for random actions": (
            ["collect", POINT, "--output", out, "--num-episodes", "1", "--target", "cost_to_go=3"],
            "pass --policy",
        ),
        "converting onto something": (["convert", store, "--output", run], "exists already and is not empty"),
    }


def test_bad_input_ends_with_2_one_message_and_nothing_written(ready, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    cases = bad_inputs(ready, tmp_path)
    assert len(cases) >= 40
    before = {p for root in (ready, tmp_path) for p in root.rglob("*")}
    for name, (arguments, culprit) in cases.items():
        assert not (tmp_path / "out").exists(), name  # what was refused before left nothing behind
        code = main(arguments)
        captured = capsys.readouterr()
        assert code == 2, (name, code, captured)
        assert culprit in captured.err, (name, captured.err)
        assert captured.err.startswith("error: "), name
        assert "\n  fix: " in captured.err, name
        assert captured.err.count("error: ") == 1, name
        assert len(captured.err) < 1200, name
        assert "Traceback" not in captured.err + captured.out
        written = {p for root in (ready, tmp_path) for p in root.rglob("*")} - before
        assert all(p.is_relative_to(tmp_path / "out") for p in written), (name, written)


def test_damaged_policies_and_runs_end_with_2(ready, tmp_path, capsys):
    import shutil

    for name, change in (
        ("policy.json", lambda b: b[:-9]),
        ("policy.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
    ):
        shutil.copytree(ready / "run", tmp_path / name)
        damaged(tmp_path / name / "policy", name, change)
        assert main(["evaluate", str(tmp_path / name), "--env-id", POINT, "--target-return", "3"]) == 2
        assert name in capsys.readouterr().err
