"""Claims about `rlt reproduce`: what it keeps, what it refuses, and how it judges."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rl_transformer import RLTransformerError, train
from rl_transformer.cli.main import main
from rl_transformer.config.presets import fast
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.language.gguf import import_gguf
from rl_transformer.reproductions import EXPERIMENTS, cells, find_experiment, reproduction, run_cache
from rl_transformer.reproductions.experiment import Check, Row, Setup, Summary
from rl_transformer.reproductions.provenance import used_policies
from rl_transformer.reproductions.reproduction import judge_again, reproduce
from rl_transformer.reproductions.run_cache import cached_run, with_options
from rl_transformer.reproductions.task_data import TaskData
from rl_transformer.trajectories.store import write_store
from tests.language.tiny_llama import write_tiny_llama
from tests.reproductions.coin import Coin, run_coin
from tests.reproductions.test_door import demonstrations
from tests.toys import POINT, point_data


@pytest.fixture
def coin(monkeypatch):
    monkeypatch.setattr(Coin, "measured", [])
    monkeypatch.setattr(Coin, "interrupted_at", set())
    return Coin()


def test_an_interrupted_run_keeps_its_finished_seeds_and_more_seeds_can_be_added(coin, tmp_path):
    coin.interrupted_at.add(3)
    with pytest.raises(KeyboardInterrupt):
        run_coin(coin, tmp_path / "coin")
    assert coin.measured == [0, 1, 2]
    assert not (tmp_path / "coin" / "result.json").exists()
    coin.interrupted_at.clear()
    assert run_coin(coin, tmp_path / "coin")["seeds"] == 5
    assert coin.measured == [0, 1, 2, 3, 4]
    result = run_coin(coin, tmp_path / "coin", seeds=6)
    assert coin.measured == [0, 1, 2, 3, 4, 5]
    assert result == json.loads((tmp_path / "coin" / "result.json").read_text())
    assert result["rows"][0]["values"] == [0, 1, 2, 3, 4, 5]


def test_the_verdict_follows_the_rule_and_few_seeds_establish_nothing(coin, tmp_path):
    assert run_coin(coin, tmp_path / "pass")["verdict"] == "pass"
    assert run_coin(coin, tmp_path / "few", seeds=4)["verdict"] == "not established"
    assert run_coin(coin, tmp_path / "quick", quick=True)["verdict"] == "not established"
    coin.measure = lambda cell, setup: {"score": 0.5}
    assert run_coin(coin, tmp_path / "fail")["verdict"] == "fail"
    pages = {name: (tmp_path / name / "README.md").read_text().splitlines()[0] for name in ("pass", "few", "fail")}
    assert pages == {"pass": "# Coin: PASS", "few": "# Coin: not established", "fail": "# Coin: FAIL"}
    assert "Quick run" in (tmp_path / "quick" / "README.md").read_text()


def test_a_rule_that_fails_decides_and_one_that_is_open_leaves_the_verdict_open(coin, tmp_path):
    found = {"high": Check(None, "open"), "known": Check(True, "yes")}
    coin.summarize = lambda measured, setup: Summary([Row("seed", over_seeds([1.0, 2.0]))], found)
    assert run_coin(coin, tmp_path / "open")["verdict"] == "not established"
    found["known"] = Check(False, "no")
    assert run_coin(coin, tmp_path / "failed")["verdict"] == "fail"


def test_rules_that_are_changed_after_the_results_stand_on_the_page_with_what_they_found(coin, tmp_path, monkeypatch):
    folder = tmp_path / "coin"
    before = run_coin(coin, folder)
    assert before["changed_rules"] == []
    assert "## The rule, written before the run" in (folder / "README.md").read_text()
    monkeypatch.setattr(Coin, "rules", {"high": "the mean is 3 or more", "known": "the mean is a number"})
    with pytest.raises(RLTransformerError, match="made with another rules") as error:
        run_coin(coin, folder, seeds=6)
    assert "--judge-again" in error.value.fix
    again = judge_again(coin, folder)
    assert coin.measured == [0, 1, 2, 3, 4]  # nothing is measured
    (change,) = again["changed_rules"]
    assert (change["verdict"], change["rules"]) == ("pass", before["rules"])
    page = (folder / "README.md").read_text()
    assert "## The rule, changed after the run" in page
    assert "| the mean is 1 or more | 2.0 | holds |" in page
    # It stays there when seeds are added, or when the results are judged again.
    assert run_coin(coin, folder, seeds=6)["changed_rules"] == [change]
    assert judge_again(coin, folder)["changed_rules"] == [change]
    assert "| the mean is 1 or more | 2.0 | holds |" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check"], "holds no finished results"),
        (["--judge-again"], "holds no finished results"),
        (["--check", "--judge-again"], "exclude each other"),
        (["--check", "--seeds", "5"], "has no effect with --check"),
        (["--judge-again", "--jobs", "2"], "has no effect with --judge-again"),
    ],
)
def test_checking_what_is_not_there_is_refused(arguments, message, tmp_path, capsys):
    assert main(["reproduce", "graph", *arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_results_of_another_experiment_are_not_judged(coin, tmp_path, capsys):
    run_coin(coin, tmp_path / "coin")
    assert main(["reproduce", "graph", "--check", "--output", str(tmp_path / "coin")]) == 2
    assert "holds results of coin" in capsys.readouterr().err


def test_cells_of_other_code_are_announced(coin, tmp_path, capsys, monkeypatch):
    run_coin(coin, tmp_path / "coin", seeds=2)
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(reproduction, "code_hash", lambda experiment: "another")
    monkeypatch.setattr(cells, "code_hash", lambda experiment: "another")
    result = run_coin(coin, tmp_path / "coin", seeds=5)
    assert "2 of these cells were measured by other code" in capsys.readouterr().out
    assert len(result["code"]) == 2
    assert "by 2 versions of the code" in (tmp_path / "coin" / "README.md").read_text()


def test_the_rule_is_written_before_anything_is_measured(coin, tmp_path):
    coin.interrupted_at.add(0)
    with pytest.raises(KeyboardInterrupt):
        run_coin(coin, tmp_path / "coin")
    assert json.loads((tmp_path / "coin" / "protocol.json").read_text())["rules"] == Coin.rules


def test_results_of_another_recipe_or_of_something_else_are_not_mixed(coin, tmp_path, monkeypatch):
    run_coin(coin, tmp_path / "coin")
    monkeypatch.setattr(Coin, "recipe", lambda self, setup: {"size": 2})
    with pytest.raises(RLTransformerError, match="another recipe"):
        run_coin(coin, tmp_path / "coin")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(RLTransformerError, match="holds no results"):
        run_coin(coin, tmp_path / "mine")


def test_every_experiment_says_what_it_must():
    for name in EXPERIMENTS:
        experiment = find_experiment(name)
        assert experiment.name == name
        assert experiment.rules
        assert experiment.differs
        assert experiment.unknown
        assert experiment.enough_seeds >= 5
        for quick in (False, True):
            setup = Setup(quick=quick, seeds=2, output=Path("nowhere"))
            cells = experiment.cells(setup)
            assert len({json.dumps(cell) for cell in cells}) == len(cells)
            json.dumps(experiment.recipe(setup))


def test_seed_intervals_are_students():
    values = [1.0, 2.0, 4.0]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert over_seeds(values)["interval"] == pytest.approx([low, high])
    assert over_seeds(values)["interval_over"] == "training_seeds"
    assert over_seeds([3.0]) == {"mean": 3.0, "interval": None, "interval_over": "training_seeds", "values": [3.0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "choose one of"),
        (["gambling", "--seeds", "0"], "names no seed, names one twice"),
        (["gambling", "--jobs", "0"], "not positive"),
        (["gambling", "--data", "rlt:x", "--env-id", "CartPole-v1"], "has its own data"),
        (["delayed", "--data", "rlt:x"], "one of the two is missing"),
        (["delayed", "--data", "rlt:nowhere", "--env-id", "CartPole-v1"], "nowhere"),
        (["delayed", "--data", "rlt:nowhere", "--env-id", "NoSuchThing-v0"], "NoSuchThing"),
    ],
)
def test_bad_input_gets_a_message_of_its_own(arguments, message, tmp_path, capsys):
    assert main(["reproduce", *arguments, "--quick", "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_too_few_episodes_for_a_share_are_refused(tmp_path):
    data = point_data(4)
    write_store(tmp_path / "data", data.spec, (data.trajectory(i) for i in range(4)))
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out", data=f"rlt:{tmp_path / 'data'}", env_id=POINT)
    with pytest.raises(RLTransformerError, match="less than one"):
        TaskData.from_setup(setup).dataset(0.1)
    halves = [TaskData.from_setup(setup).dataset(0.5, seed=seed) for seed in range(6)]
    assert {len(half) for half in halves} == {2}
    assert len({half.fingerprint for half in halves}) > 1


def test_one_policy_is_trained_once_for_the_same_configuration_and_data(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run_cache, "train", lambda config, **rest: calls.append(config.output) or train(config, **rest))
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out")
    options = {"training.train_steps": 3, "training.batch_size": 4, "model.hidden_size": 8, "training.warmup_steps": 1}
    with used_policies() as used:
        first = cached_run(with_options(fast(), options), setup, point_data())
    assert used == [first]
    began = (first / "policy" / "manifest.json").stat().st_mtime_ns
    assert cached_run(with_options(fast(), options), setup, point_data()) == first
    assert (first / "policy" / "manifest.json").stat().st_mtime_ns == began
    assert cached_run(with_options(fast(), options), setup, point_data(seed=1)) != first
    assert cached_run(with_options(fast(), {**options, "training.seed": 1}), setup, point_data()) != first
    # A policy that other code has trained is another policy.
    monkeypatch.setattr(run_cache, "engine_hash", lambda: "another")
    assert cached_run(with_options(fast(), options), setup, point_data()) != first
    with pytest.raises(RLTransformerError, match="there is no option 'no_such_option'"):
        with_options(fast(), {"training.no_such_option": 1})


def test_a_command_with_a_slip_can_be_corrected(tmp_path, capsys):
    output = ["--quick", "--output", str(tmp_path / "out")]
    assert main(["reproduce", "delayed", "--data", "rlt:nowhere", "--env-id", "CartPole-v1", *output]) == 2
    data = point_data(4)
    write_store(tmp_path / "data", data.spec, (data.trajectory(i) for i in range(4)))
    slip = ["--data", f"rlt:{tmp_path / 'data'}", "--env-id", "CartPole-v1"]
    assert main(["reproduce", "delayed", *slip, *output]) == 2
    assert "trained on vectors of 2" in capsys.readouterr().err  # found before any training
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert names == ["protocol.json"]
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out", data=f"rlt:{tmp_path / 'data'}", env_id=POINT)
    corrected = find_experiment("delayed")
    corrected.measure = lambda cell, setup: {"mean": 1.0, "largest": 6.0}
    keeps = reproduce(corrected, setup, jobs=1, command="rlt")["rules"]["keeps"]
    assert (keeps["found"], keeps["holds"]) == ("100 %", None)  # one seed establishes nothing


def test_tables_hold_what_a_bar_would_break(coin, tmp_path, monkeypatch):
    monkeypatch.setattr(Coin, "rules", {"high": "|mean| is 1 or more", "known": "the mean is a number"})
    run_coin(coin, tmp_path / "coin")
    assert r"| \|mean\| is 1 or more | 2.0 | holds |" in (tmp_path / "coin" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_runs_quickly(name, tmp_path):
    if name == "door":
        demonstrations()  # it skips where the data or the environment is missing
    command = ["reproduce", name, "--quick", "--output", str(tmp_path / "results" / name)]
    if name == "wikipedia-3":
        write_tiny_llama(tmp_path / "tiny.gguf")
        import_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
        command += ["--language-model", str(tmp_path / "model")]
    assert main(command) == 0
    result = json.loads((tmp_path / "results" / name / "result.json").read_text())
    assert {"name", "quick", "verdict", "command", "versions", "hardware", "interval_over"} <= set(result)
    assert (result["name"], result["quick"], result["verdict"]) == (name, True, "not established")
    for file in ("README.md", "figure.png", "protocol.json"):
        assert (tmp_path / "results" / name / file).stat().st_size > 0


def test_the_published_atari_experiment_runs_on_a_folder_of_replay_buffers(tmp_path, capsys):
    """The same code with all steps of a small folder; the published sizes are in its recipe."""
    made = ["collect", "ALE/Breakout-v5", "--atari-protocol", "paper", "--num-episodes", "4", "--max-steps", "70"]
    assert main([*made, "--output", str(tmp_path / "replay"), "--layout", "dqn-replay"]) == 0
    command = ["reproduce", "atari", "--game", "Breakout", "--replay", str(tmp_path / "replay")]
    assert main([*command, "--quick", "--jobs", "1", "--output", str(tmp_path / "out/atari")]) == 0
    result = json.loads((tmp_path / "out/atari/result.json").read_text())
    assert result["command"].endswith(f"--game Breakout --replay {tmp_path / 'replay'}")
    assert result["data"]["Breakout"]["episodes"] == 4
    assert set(result["rules"]) == {"data", "bc", "rival"}
    # Buffers of another folder are other data, although game and sizes are the same.
    other = find_experiment("atari", replay_of="Breakout")
    assert main([*made, "--seed", "9", "--output", str(tmp_path / "second"), "--layout", "dqn-replay"]) == 0
    prints = {
        other.prepare(
            Setup(quick=True, seeds=1, output=tmp_path / "out/x", game="Breakout", replay=str(tmp_path / name))
        )["Breakout"]["fingerprint"]
        for name in ("replay", "second")
    }
    assert len(prints) == 2
    full = find_experiment("atari", replay_of="Pong")
    recipe = full.recipe(Setup(quick=False, seeds=3, output=tmp_path, game="Pong", replay="x"))
    assert recipe["games"] == {"Pong": {"steps": 500_000, "max_steps": None}}
    assert recipe["options"] == {
        "windows.context_length": 50, "training.batch_size": 512, "training.train_steps": 5 * 500_000 // 512,
    }  # fmt: skip
    capsys.readouterr()
    assert main(["reproduce", "atari", "--game", "Breakout"]) == 2
    assert "give both, or neither" in capsys.readouterr().err
    assert main(["reproduce", "graph", "--game", "Breakout", "--replay", "x"]) == 2
    assert "graph has no games" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "nothing"), "--output", str(tmp_path / "other")]) == 2
    assert "no such folder" in capsys.readouterr().err
