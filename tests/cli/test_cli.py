"""Claims about the command line: what works, what is refused in one message, and what is a bug."""

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rl_transformer import load_policy
from rl_transformer.cli.main import main
from rl_transformer.environments import KEY_TO_DOOR
from rl_transformer.trajectories.store import open_store
from rl_transformer.windows.gathering import WindowGatherer
from tests.cli.conftest import QUICK
from tests.toys import POINT, point_data


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
    assert "ERROR: not finite: observations is NaN, 1 times (first: episode 1, step 2, feature 1)" in said
    assert "ERROR: action outside the space" in said
    assert "training would refuse this data" in said
    assert json.loads((tmp_path / "i.json").read_text())["refused"]


def test_a_bug_keeps_its_traceback_and_ends_with_1(ready, tmp_path):
    """An internal error, provoked: the gather is made to fail as no user could make it."""
    code = (
        "import rl_transformer.windows.gathering as g\n"
        "g.WindowGatherer.gather = lambda self, index: 1 // 0\n"
        "from rl_transformer.cli.main import entry; entry()\n"
    )
    arguments = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "x"), *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("bug", "kind"), [(lambda: b"\xff".decode(), UnicodeDecodeError), (lambda: int("x"), ValueError)]
)
def test_a_bug_is_not_taken_for_bad_input(bug, kind, ready, tmp_path, monkeypatch):
    monkeypatch.setattr(WindowGatherer, "gather", lambda self, index: bug())
    with pytest.raises(kind):
        main(["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(tmp_path / "x"), *QUICK])


def test_flags_set_their_fields_and_a_file_gives_the_rest(ready, tmp_path, capsys):
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
    repeat = ["train", "gym", "--config", str(tmp_path / "before/config.json"), "--output", str(again)]
    assert main(repeat) == 0
    assert load_policy(again).content_hash == load_policy(tmp_path / "before").content_hash


def test_a_runs_file_is_repeated_without_a_preset_and_flags_beside_it_are_named(ready, tmp_path, capsys):
    """A preset word beside the file of another run used to be ignored."""
    out = str(tmp_path / "out")
    assert main(["train", "--config", str(ready / "run/config.json"), "--output", out, "--train-steps", "2"]) == 0
    assert "config.json: training.train_steps 4 -> 2" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out/config.json").read_text())
    assert (stored["preset"], stored["training"]["train_steps"], stored["model"]["hidden_size"]) == ("gym", 2, 8)
    assert main(["train", "--output", f"{out}2", "--data", f"rlt:{ready / 'store'}", *QUICK, "gym"]) == 0
    assert load_policy(f"{out}2").content_hash == load_policy(ready / "run").content_hash


@pytest.mark.parametrize("written", ["4", "4e0", "0.4e1", "4.0"])
def test_numbers_are_read_as_people_write_them(ready, tmp_path, written):
    """Reported as: --train-steps 1e3 and --target-return -1e3 are refused."""
    out = str(tmp_path / "out")
    words = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", out, *QUICK[2:]]
    assert main([*words, "--train-steps", written, "--dataset.min_return", "-1e3"]) == 0
    stored = json.loads((tmp_path / "out/config.json").read_text())
    assert (stored["training"]["train_steps"], stored["dataset"]["min_return"]) == (4, -1000.0)


@pytest.mark.parametrize("written", ["-1e3", "-1000.", "-.1e4", "-1E+3"])
def test_a_negative_target_may_have_an_exponent(ready, tmp_path, written):
    score = ["evaluate", str(ready / "run"), "--env-id", POINT, "--num-episodes", "1", "--target-return", written, "2"]
    assert main([*score, "--json", str(tmp_path / "r.json")]) == 0
    targets = json.loads((tmp_path / "r.json").read_text())["targets"]
    assert [target["target_return"] for target in targets] == [-1000.0, 2.0]


def test_a_home_folder_is_understood_wherever_a_shell_does_not_expand_it(ready, tmp_path, monkeypatch):
    """Reported for streamlit: --output=~/walks made a folder called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ready / "store", tmp_path / "store")
    words = ["train", "gym", "--data=rlt:~/store", "--output=~/run", *QUICK, "--json=~/result.json"]
    assert main(words) == 0
    assert (tmp_path / "run/policy").is_dir()
    assert (tmp_path / "result.json").is_file()
    assert not (tmp_path / "~").exists()


def test_help_and_import_do_not_load_torch():
    for code in (
        "import rl_transformer",
        "from rl_transformer.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ):
        check = f"{code}\nimport sys\nassert 'torch' not in sys.modules and 'gymnasium' not in sys.modules"
        subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_data_is_converted_and_inspected_without_loading_torch(tmp_path):
    """It takes seconds, a sixth of the time in which five million rows of a table are converted."""
    (tmp_path / "log.csv").write_text("episode,step,f,action,reward\n" + "".join(f"0,{t},{t},0,1\n" for t in range(9)))
    convert = [
        "convert",
        "csv:log.csv",
        "--observe",
        "f",
        "--action",
        "action",
        "--reward",
        "reward",
        "--output",
        "store",
    ]
    code = f"""
import sys
from rl_transformer.cli.main import main
assert main({convert!r}) == 0
assert main(["inspect", "rlt:store"]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)


def test_training_on_a_store_needs_no_reader_and_no_transformers(ready, tmp_path):
    """A bare machine: torch, numpy and safetensors are enough for the whole path from a store to a policy."""
    blocked = ["h5py", "minari", "pyarrow", "transformers", "tensorboard", "wandb", "matplotlib", "scipy", "gymnasium"]
    blocked += ["jaxtyping", "beartype"]
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
