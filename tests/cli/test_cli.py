"""Claims about the command line: what works, what is refused in one message, and what is a bug."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from rl_transformer import load_policy
from rl_transformer.cli.main import main
from rl_transformer.cli.train import FLAGS, field_texts
from rl_transformer.config.run import RunConfig, TrainingConfig
from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.trajectories.store import open_store, write_store

from tests.toys import POINT, point_data

QUICK = [
    "--train-steps",
    "4",
    "--model.hidden_size",
    "8",
    "--model.n_layer",
    "1",
    "--training.batch_size",
    "4",
    "--training.threads",
    "1",
]


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A store, a trained run and a cloner, made through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    data = point_data()
    write_store(folder / "store", data.spec, (data.trajectory(i) for i in range(len(data))))
    store = f"rlt:{folder / 'store'}"
    assert main(["train", "gym", "--data", store, "--output", str(folder / "run"), *QUICK]) == 0
    assert (
        main(["train", "gym", "--data", store, "--output", str(folder / "bc"), *QUICK, "--model.conditions", "[]"]) == 0
    )
    return folder


def test_train_then_evaluate_from_the_command_line(ready, tmp_path, capsys):
    run = ready / "run"
    for name in (
        "config.json",
        "metrics.jsonl",
        "timing.jsonl",
        "run.json",
        "policy/policy.json",
        "policy/policy.safetensors",
        "policy/manifest.json",
    ):
        assert (run / name).is_file()
    assert not [p for p in run.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt")]
    arguments = ["--env-id", POINT, "--target-return", "3", "9", "--num-episodes", "2"]
    files = [
        "--json",
        str(tmp_path / "e.json"),
        "--video",
        str(tmp_path / "v.gif"),
        "--figure",
        str(tmp_path / "f.png"),
        "--data",
        f"rlt:{ready / 'store'}",
    ]
    assert main(["evaluate", str(run), *arguments, *files]) == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert [t["target_return"] for t in report["targets"]] == [3, 9]
    assert [len(t["episode_returns"]) for t in report["targets"]] == [2, 2]
    assert {p.name for p in tmp_path.iterdir()} == {"e.json", "v.gif", "f.png"}
    assert "95 % interval" in capsys.readouterr().out


def test_collect_convert_and_inspect(ready, tmp_path, capsys):
    assert main(["collect", KEY_TO_DOOR, "--output", str(tmp_path / "walks"), "--num-episodes", "5"]) == 0
    assert (
        main(
            [
                "collect",
                POINT,
                "--output",
                str(tmp_path / "own"),
                "--num-episodes",
                "2",
                "--policy",
                str(ready / "run"),
                "--target-return",
                "6",
            ]
        )
        == 0
    )
    assert open_store(tmp_path / "walks").num_steps == 225
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        data = point_data(3)
        file.update({name: data.columns[name] for name in ("observations", "actions", "rewards")})
        file["terminals"] = np.isin(np.arange(36), [11, 23])
        file["timeouts"] = np.zeros(36)
    assert main(["convert", f"d4rl:{tmp_path / 'd.hdf5'}", "--output", str(tmp_path / "converted")]) == 0
    assert open_store(tmp_path / "converted").num_steps == 24
    capsys.readouterr()
    arguments = ["--json", str(tmp_path / "i.json"), "--figure", str(tmp_path / "i.png"), "--verify"]
    assert main(["inspect", f"rlt:{tmp_path / 'converted'}", *arguments]) == 0
    said = capsys.readouterr().out
    assert "2 episodes, 24 steps" in said
    assert "the last 12 steps belong to an episode without an end" in said
    described = json.loads((tmp_path / "i.json").read_text())
    assert described["ends"] == {"terminated": 2, "truncated": 0, "unfinished": 0}
    assert (tmp_path / "i.png").stat().st_size > 1000


def test_inspect_lists_everything_and_exits_with_2_if_training_would_refuse(tmp_path, capsys):
    with h5py.File(tmp_path / "bad.hdf5", "w") as file:
        observations = np.zeros((10, 2), np.float32)
        observations[7, 1] = np.nan
        actions = np.zeros((10, 1), np.float32)
        actions[2] = 5
        file.update(
            {
                "observations": observations,
                "actions": actions,
                "rewards": np.zeros(10),
                "terminals": np.arange(10) % 5 == 4,
                "timeouts": np.zeros(10),
            }
        )
    assert main(["inspect", f"d4rl:{tmp_path / 'bad.hdf5'}", "--json", str(tmp_path / "i.json")]) == 2
    said = capsys.readouterr().out
    assert "REFUSE: not finite: observations is NaN, 1 times (first: episode 1, step 2, feature 1)" in said
    assert "REFUSE: action outside the space" in said
    assert "training would refuse this data" in said
    assert json.loads((tmp_path / "i.json").read_text())["refused"]


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
    (tmp / "default.yaml").write_text("training: {train_steps: 100000}")
    (tmp / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp / "foreign").mkdir()
    (tmp / "foreign/config.json").write_text("{}")
    (tmp / "steps.yaml").write_text("training: {train_steps: 77}")
    with h5py.File(tmp / "nan.hdf5", "w") as file:
        columns = {"observations": np.full((4, 2), np.nan), "actions": np.zeros((4, 1)), "rewards": np.zeros(4)}
        file.update({**columns, "terminals": np.arange(4) == 3, "timeouts": np.zeros(4)})
    with h5py.File(tmp / "endless.hdf5", "w") as file:
        columns = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "rewards": np.zeros(4)}
        file.update({**columns, "terminals": np.zeros(4), "timeouts": np.zeros(4)})

    def with_data(uri):
        return ["train", "gym", "--data", uri, "--output", out, *QUICK]

    return {
        "no command": ([], "subcommand"),
        "unknown command": (["trian"], "trian"),
        "unknown preset": (["train", "gim", "--data", store, "--output", out], "gim"),
        "unknown option": ([*train, "--training.lr", "1"], "training.lr"),
        "wrong type": ([*train, "--training.batch_size", "many"], "batch_size"),
        "not among the choices": ([*train, "--training.schedule", "linear"], "schedule"),
        "no output": (["train", "gym", "--data", store], "output"),
        "no data": (["train", "gym", "--output", out], "dataset.uri"),
        "flag and field differ": ([*train, "--training.train_steps", "9"], "--train-steps"),
        "flag and file differ": ([*train, "--config", str(tmp / "steps.yaml")], "--train-steps"),
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
        "an empty folder as store": (with_data(f"rlt:{tmp / 'empty'}"), "manifest.json: no such file"),
        "malformed Minari id": (with_data("minari:../x-v0"), "not a Minari id"),
        "no such Minari set": (with_data("minari:no/such-v0"), "no such data set"),
        "output holds something": (["train", "gym", "--data", store, "--output", run, *QUICK], "already and not empty"),
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
        "flag and file differ, and the file has the default": (
            [*train, "--config", str(tmp / "default.yaml")],
            "--train-steps",
        ),
        "a file that is not text": ([*train, "--config", str(tmp / "bytes.yaml")], "not text"),
        "the preset after the options": (["train", "--data", store, "--output", out, "fast"], "rlt train fast"),
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
        "a target for cloning": (["evaluate", str(ready / "bc"), *score[2:]], "not asked for a return"),
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
        "converting onto something": (["convert", store, "--output", run], "already and not empty"),
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


@pytest.mark.parametrize(
    ("bug", "name"),
    [("1 // 0", "ZeroDivisionError"), ("b'\\xff'.decode()", "UnicodeDecodeError"), ("int('x')", "ValueError")],
)
def test_a_bug_keeps_its_traceback_and_ends_with_1(bug, name, ready, tmp_path):
    """An internal error, provoked: the gather is made to fail as no user could make it."""
    code = (
        "import rl_transformer.windows.gathering as g\n"
        f"g.WindowGatherer.gather = lambda self, index: {bug}\n"
        "from rl_transformer.cli.main import entry; entry()\n"
    )
    arguments = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "x"), *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert name in done.stderr
    assert "Traceback" in done.stderr


def test_flags_set_their_fields_and_a_file_gives_the_rest(ready, tmp_path):
    (tmp_path / "c.yaml").write_text("training: {learning_rate: 0.25, warmup_steps: 1}\nmodel: {n_head: 2}\n")
    store = f"rlt:{ready / 'store'}"
    for place in ("before", "after"):
        out = tmp_path / place
        file = ["--config", str(tmp_path / "c.yaml")]
        rest = ["--data", store, "--output", str(out), *QUICK, "--seed", "3", "--training.learning_rate", "0.125"]
        assert main(["train", "gym", *(file + rest if place == "before" else rest + file)]) == 0
        stored = json.loads((out / "config.json").read_text())
        assert (stored["training"]["train_steps"], stored["training"]["seed"], stored["dataset"]["uri"]) == (
            4,
            3,
            store,
        )
        assert (stored["training"]["warmup_steps"], stored["model"]["n_head"]) == (1, 2)
        assert stored["training"]["learning_rate"] == 0.125  # the command line, wherever the file stands
    again = tmp_path / "again"
    assert main(["train", "gym", "--config", str(tmp_path / "before/config.json"), "--output", str(again)]) == 0
    assert load_policy(again).content_hash == load_policy(tmp_path / "before").content_hash


def test_the_options_are_the_fields_of_the_configuration(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "fast", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    options = {
        f"--{section}.{name}"
        for section, values in RunConfig().to_dict().items()
        if isinstance(values, dict)
        for name in values
    }
    assert len(options) > 50
    assert not [option for option in options if f"{option} " not in text]
    assert "default: 8000" in text  # of the named preset
    assert {"--data", "--output", "--train-steps", "--seed", "--checkpoint-every", "--resume", "--config"} <= set(
        text.replace("]", " ").split()
    )
    assert set(field_texts(TrainingConfig)) == set(vars(TrainingConfig()))
    assert all(hasattr(getattr(RunConfig(), section), name) for section, name, _ in FLAGS.values())


@pytest.mark.parametrize("command", ["demo", "inspect", "train", "evaluate", "collect", "convert"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "default" in capsys.readouterr().out or command in ("inspect", "convert")


def test_help_and_import_do_not_load_torch():
    for code in (
        "import rl_transformer",
        "from rl_transformer.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ):
        check = f"{code}\nimport sys\nassert 'torch' not in sys.modules and 'gymnasium' not in sys.modules"
        subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_training_on_a_store_needs_no_reader_and_no_transformers(ready, tmp_path):
    """A bare machine: torch, numpy and safetensors are enough for the whole path from a store to a policy."""
    blocked = ["h5py", "minari", "pyarrow", "transformers", "tensorboard", "wandb", "matplotlib", "scipy", "gymnasium"]
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import rl_transformer as r
c = r.preset("gym")
c.dataset.uri, c.output, c.training.train_steps, c.model.hidden_size = {f"rlt:{ready / 'store'}"!r}, {str(tmp_path / "run")!r}, 2, 8
policy = r.load_policy(r.train(c))
print(policy.session(5.0).act([0.0, 0.0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
