"""Claims about `rlt evaluate` and `rlt collect`: their options of the environment, several seeds, the progress bar."""

import json
import shlex
import shutil
import sys
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.cli.train import make_parser, resolve_run_config
from rl_transformer.evaluation.statistics import mean_interval
from rl_transformer.launch.seeds import seed_folders
from tests.cli.conftest import QUICK
from tests.environments.foreign import EndlessEnv, SizedEnv
from tests.toys import POINT

SIZED = "tests/SizedForCli-v0"
ENDLESS = "tests/EndlessForCli-v0"
for env_id, entry_point in {SIZED: SizedEnv, ENDLESS: EndlessEnv}.items():
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=entry_point)


@pytest.fixture(scope="module")
def seeds(ready, tmp_path_factory):
    """A folder of two training seeds."""
    folder = tmp_path_factory.mktemp("seeds") / "runs"
    words = ["train", "gym", "--data", f"rlt:{ready / 'store'}", "--output", str(folder), *QUICK, "--seeds", "0..1"]
    assert main(words) == 0
    return folder


def evaluated(tmp_path, *words):
    """Return the report of a command that succeeds."""
    file = tmp_path / "report.json"
    assert main(["evaluate", *map(str, words), "--json", str(file)]) == 0
    return json.loads(file.read_text())


def refused(capsys, *words):
    """Return the message of a command that fails with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_every_option_of_the_environment_has_its_effect(ready, tmp_path):
    score = (ready / "run", "--env-id", SIZED, "--target-return", 3, "--num-episodes", 2)
    once = evaluated(tmp_path, *score, "--env-kwargs", '{"size": 1}', "--max-live", 1)
    limited = evaluated(tmp_path, *score, "--env-kwargs", '{"size": 2}', "--max-steps", 5)
    assert once["targets"][0]["episode_lengths"] == [12, 12]
    assert limited["targets"][0]["episode_lengths"] == [5, 5]
    assert limited["targets"][0]["truncated_by_limit"] == 2
    assert limited["env_kwargs"] == {"size": 2}
    wrapped = evaluated(
        tmp_path, *score, "--env-kwargs", '{"size": 1}', "--wrapper", 'ClipReward={"min_reward": 0, "max_reward": 0}'
    )
    assert wrapped["targets"][0]["episode_returns"] == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-kwargs", "{size: 1}"], "--env-kwargs: '{size: 1}' is not a JSON object"),
        (["--env-kwargs", "[1]"], "--env-kwargs: '[1]' is not a JSON object"),
        (["--env-kwargs", '{"sise": 1}'], "unexpected keyword argument 'sise'"),
        (["--max-live", "0"], "max_live: is 0"),
        (["--max-steps", "0"], "max_steps: is 0"),
        (["--wrapper", "NoWrapper"], "wrapper NoWrapper: gymnasium.wrappers has no such class"),
        (["--wrapper", "RecordVideo"], "record with rlt evaluate --video FILE"),
    ],
)
def test_wrong_options_are_refused(ready, capsys, words, message):
    score = ["evaluate", ready / "run", "--env-id", POINT, "--target-return", "3", "--num-episodes", "1"]
    assert message in refused(capsys, *score, *words)


def test_an_evaluation_without_environment_says_which_one(ready, capsys):
    message = refused(capsys, "evaluate", ready / "run")
    assert message.startswith("error: --env-id: no environment is named\n  fix: pass --env-id ID")


def test_recording_takes_the_same_options(ready, tmp_path, capsys):
    collect = ["collect", SIZED, "--num-episodes", "3", "--env-kwargs", '{"size": 4}', "--max-steps", "6"]
    assert main([*collect, "--output", str(tmp_path / "store"), "--wrapper", "RecordEpisodeStatistics"]) == 0
    data = open_trajectories(f"rlt:{tmp_path / 'store'}")
    assert data.lengths.tolist() == [6, 6, 6]
    assert data.rewards.max() > 2
    endless = ["collect", ENDLESS, "--num-episodes", "1", "--policy", str(ready / "run"), "--target-return", "3"]
    assert main([*endless, "--output", str(tmp_path / "endless")]) == 0
    assert open_trajectories(f"rlt:{tmp_path / 'endless'}").lengths.tolist() == [120]
    assert "note: 1 of 1 episodes were cut off after 120 steps" in capsys.readouterr().out
    assert "size" in refused(capsys, *collect[:4], "--output", tmp_path / "third")


ARGUMENTS = {
    "count": 5, "text": "5", "word": "true", "small": "1e3", "share": 1.5, "on": True, "none": None, "list": [1, "2"],
    "config": {"class_path": "os.system", "size": 2},
}  # fmt: skip


@pytest.mark.parametrize("way", ["option", "file"])
def test_arguments_of_the_environment_keep_their_types(tmp_path, way):
    """A text that looks like a number stays a text, and nothing in the values is taken for code."""
    values = json.dumps(ARGUMENTS)
    words = ["fast", "--data", "x:y", "--output", "o", "--evaluation.env_id", POINT]
    if way == "option":
        words += ["--evaluation.env_kwargs", values]
    else:
        (tmp_path / "config.json").write_text(json.dumps({"evaluation": {"env_kwargs": ARGUMENTS}}))
        words += ["--config", str(tmp_path / "config.json")]
    config = resolve_run_config(make_parser("rlt train", "fast").parse_args(words))
    config.check()
    assert json.dumps(config.evaluation.env_kwargs, sort_keys=True) == json.dumps(ARGUMENTS, sort_keys=True)


@pytest.mark.parametrize("wrapper", ["mine:Wrapper", 'mine:Wrapper={"size": 1}'])
def test_a_wrapper_of_a_module_is_refused_in_a_file(tmp_path, wrapper):
    """Reading a configuration must not run code; what the user types may."""
    (tmp_path / "config.json").write_text(json.dumps({"evaluation": {"env_id": POINT, "wrappers": [wrapper]}}))
    words = ["fast", "--data", "x:y", "--output", "o", "--config", str(tmp_path / "config.json")]
    with pytest.raises(RLTransformerError, match=r"evaluation\.wrappers 'mine:Wrapper.* names a module"):
        resolve_run_config(make_parser("rlt train", "fast").parse_args(words))
    typed = [*words[:-2], "--evaluation.env_id", POINT, "--evaluation.wrappers", json.dumps([wrapper])]
    assert resolve_run_config(make_parser("rlt train", "fast").parse_args(typed)).evaluation.wrappers == [wrapper]


# Several training seeds


def test_a_folder_of_seeds_is_one_report_over_training_seeds(seeds, tmp_path, capsys):
    options = ("--env-id", POINT, "--target-return", 3, 6, "--num-episodes", 4, "--seed", 7)
    report = evaluated(tmp_path, seeds, *options)
    printed = capsys.readouterr().out
    single = [evaluated(tmp_path, folder, *options) for folder in seed_folders(seeds).values()]
    assert report["training_seeds"] == [0, 1]
    assert report["policy"] == [one["policy"] for one in single]
    assert "interval over 2 training seeds" in printed
    for i, target in enumerate(report["targets"]):
        parts = [one["targets"][i] for one in single]
        means = [part["mean"] for part in parts]
        interval = mean_interval(means)
        assert target["interval_over"] == "training_seeds"
        assert target["seed_means"] == means
        assert target["mean"] == pytest.approx(np.mean(means))
        assert target["interval"] == [interval.low, interval.high]
        assert target["interval_method"] == "student_t"
        assert target["episode_returns"] == parts[0]["episode_returns"] + parts[1]["episode_returns"]
    assert single[0]["training_seeds"] == []
    assert single[0]["targets"][0]["interval_over"] == "episodes"


def test_a_folder_of_one_seed_has_no_interval(seeds, tmp_path):
    shutil.copytree(seeds / "seed-1", tmp_path / "one" / "seed-1")
    report = evaluated(tmp_path, tmp_path / "one", "--env-id", POINT, "--target-return", 3, "--num-episodes", 4)
    assert report["training_seeds"] == [1]
    assert report["targets"][0]["interval"] is None


def test_a_seed_that_has_not_finished_is_found_before_any_episode(seeds, tmp_path, capsys):
    shutil.copytree(seeds, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/seed-1/policy")
    message = refused(capsys, "evaluate", tmp_path / "runs", "--env-id", POINT, "--num-episodes", "1")
    assert "seed-1: the run has not finished" in message


def test_seeds_that_suggest_different_targets_need_common_ones(seeds, tmp_path, capsys):
    shutil.copytree(seeds, tmp_path / "runs")
    file = tmp_path / "runs/seed-1/policy/policy.json"
    from rl_transformer import load_policy

    policy = load_policy(tmp_path / "runs/seed-1")
    object.__setattr__(policy.spec, "suggested_targets", (1.0, 2.0))
    object.__setattr__(policy.spec, "advice", replace(policy.spec.advice, fixed=2.0))
    shutil.rmtree(file.parent)
    policy.save(file.parent)
    score = ["evaluate", tmp_path / "runs", "--env-id", POINT, "--num-episodes", "1"]
    message = refused(capsys, *score)
    assert "suggest different target returns" in message
    fix = message.split("--target-return ")[-1].split()
    assert main([*map(str, score), "--target-return", *fix]) == 0


# Progress


def test_progress_is_shown_on_a_terminal_only(ready, capsys, monkeypatch):
    score = ["evaluate", str(ready / "run"), "--env-id", POINT, "--target-return", "3", "--num-episodes", "40"]
    assert main(score) == 0
    assert "episode" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(score) == 0
    assert "/40" in capsys.readouterr().err


def test_the_next_command_after_collecting_and_training_makes_the_same_environment(tmp_path, capsys):
    """Reported as Minari#304: advice without arguments, limits or wrappers leads into another environment."""
    words = ["collect", "CartPole-v1", "--num-episodes", "3", "--output", str(tmp_path / "data")]
    kwargs = json.dumps({"sutton_barto_reward": True, "max_episode_steps": 15})
    wrapper = 'ClipReward={"max_reward": 0.0, "min_reward": -0.5}'
    assert main([*words, "--env-kwargs", kwargs, "--wrapper", wrapper]) == 0
    train = [
        "train",
        "fast",
        "--data",
        f"rlt:{tmp_path / 'data'}",
        "--output",
        str(tmp_path / "run"),
        "--train-steps",
        "1",
    ]
    capsys.readouterr()
    assert main(train) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: rlt ")]
    report = tmp_path / "r.json"
    assert main([*shlex.split(line.removeprefix("next: rlt ")), "--num-episodes", "2", "--json", str(report)]) == 0
    (target,) = json.loads(report.read_text())["targets"]
    assert all(-0.5 <= value <= 0 for value in target["episode_returns"])
    assert max(target["episode_lengths"]) <= 15
