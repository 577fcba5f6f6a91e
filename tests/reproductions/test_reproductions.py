"""Claims about `rlt reproduce`: what it keeps, what it refuses, how it judges; and about its environments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from rl_transformer import RLTransformerError, train
from rl_transformer.cli.main import main
from rl_transformer.environments import GAMBLING, KEY_TO_DOOR, STITCHING, graph_walk, t_maze
from rl_transformer.environments.graph_walk import GOAL, NUM_NODES, distances, random_graph
from rl_transformer.environments.gambling import GO, LEAVE, OUTCOMES, TO_G, TO_X
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions import EXPERIMENTS, find_experiment
from rl_transformer.reproductions.run_cache import with_options, cached_run
from rl_transformer.reproductions.task_data import Control
from rl_transformer.reproductions.reproduction import (
    Experiment,
    Row,
    Setup,
    Summary,
    cell_file,
    read_back,
    reproduce,
    values_of,
    verdict,
)
from rl_transformer.config.presets import fast
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.store import write_store
from tests.toys import POINT, point_data


class Coin(Experiment):
    """Measures its own seed; fails where it is told to."""

    name = "coin"
    title = "Coin"
    question = "Is the mean of the seeds above the rule?"
    rules: ClassVar = {"high": "the mean is 1 or more", "known": "the mean is a number"}
    differs = ("Everything.",)
    unknown = ("Nothing.",)
    measured: ClassVar[list] = []
    fail_at: ClassVar[set] = set()

    def recipe(self, setup):
        return {"size": 1}

    def cells(self, setup):
        return [{"arm": "a", "seed": seed} for seed in range(setup.seeds)]

    def measure(self, cell, setup):
        if cell["seed"] in self.fail_at:
            raise KeyboardInterrupt
        self.measured.append(cell["seed"])
        return {"score": float(cell["seed"])}

    def summarize(self, measured, setup):
        score = over_seeds(values_of(measured, "score"))
        return Summary(
            [Row("seed", score, "1 [C]")],
            {"high": (score["mean"] >= 1, f"{score['mean']:.1f}"), "known": (True, "it is")},
        )

    def draw(self, measured, summary, axes):
        axes.plot(values_of(measured, "score"))


@pytest.fixture
def coin(monkeypatch):
    monkeypatch.setattr(Coin, "measured", [])
    monkeypatch.setattr(Coin, "fail_at", set())
    return Coin()


def run(experiment, folder, seeds=5, *, quick=False):
    return reproduce(experiment, Setup(quick=quick, seeds=seeds, output=folder), jobs=1, command="rlt reproduce coin")


def test_an_interrupted_run_keeps_its_finished_seeds_and_more_seeds_can_be_added(coin, tmp_path):
    coin.fail_at.add(3)
    with pytest.raises(KeyboardInterrupt):
        run(coin, tmp_path / "coin")
    assert coin.measured == [0, 1, 2]
    assert not (tmp_path / "coin" / "result.json").exists()
    coin.fail_at.clear()
    assert run(coin, tmp_path / "coin")["seeds"] == 5
    assert coin.measured == [0, 1, 2, 3, 4]
    result = run(coin, tmp_path / "coin", seeds=6)
    assert coin.measured == [0, 1, 2, 3, 4, 5]
    assert result == json.loads((tmp_path / "coin" / "result.json").read_text())
    assert result["rows"][0]["values"] == [0, 1, 2, 3, 4, 5]


def test_the_verdict_follows_the_rule_and_few_seeds_establish_nothing(coin, tmp_path):
    assert run(coin, tmp_path / "pass")["verdict"] == "pass"
    assert run(coin, tmp_path / "few", seeds=4)["verdict"] == "not established"
    assert run(coin, tmp_path / "quick", quick=True)["verdict"] == "not established"
    coin.measure = lambda cell, setup: {"score": 0.5}
    assert run(coin, tmp_path / "fail")["verdict"] == "fail"
    pages = {name: (tmp_path / name / "README.md").read_text().splitlines()[0] for name in ("pass", "few", "fail")}
    assert pages == {"pass": "# Coin: PASS", "few": "# Coin: not established", "fail": "# Coin: FAIL"}
    assert "Quick run" in (tmp_path / "quick" / "README.md").read_text()


def test_the_rule_is_written_before_anything_is_measured(coin, tmp_path):
    coin.fail_at.add(0)
    with pytest.raises(KeyboardInterrupt):
        run(coin, tmp_path / "coin")
    assert json.loads((tmp_path / "coin" / "protocol.json").read_text())["rules"] == Coin.rules


def test_results_of_another_recipe_or_of_something_else_are_not_mixed(coin, tmp_path, monkeypatch):
    run(coin, tmp_path / "coin")
    monkeypatch.setattr(Coin, "recipe", lambda self, setup: {"size": 2})
    with pytest.raises(RLTransformerError, match="another recipe"):
        run(coin, tmp_path / "coin")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(RLTransformerError, match="holds no results"):
        run(coin, tmp_path / "mine")


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
    ("arguments", "told"),
    [
        (["nothing"], "choose one of"),
        (["gambling", "--seeds", "0"], "not positive"),
        (["gambling", "--jobs", "0"], "not positive"),
        (["gambling", "--data", "rlt:x", "--env-id", "CartPole-v1"], "makes its own data"),
        (["delayed", "--data", "rlt:x"], "one of the two is missing"),
        (["delayed", "--data", "rlt:nowhere", "--env-id", "CartPole-v1"], "nowhere"),
        (["delayed", "--data", "rlt:nowhere", "--env-id", "NoSuchThing-v0"], "NoSuchThing"),
    ],
)
def test_bad_input_is_told_apart(arguments, told, tmp_path, capsys):
    assert main(["reproduce", *arguments, "--quick", "--output", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err


def test_too_few_episodes_for_a_share_are_refused(tmp_path):
    data = point_data(4)
    write_store(tmp_path / "data", data.spec, (data.trajectory(i) for i in range(4)))
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out", data=f"rlt:{tmp_path / 'data'}", env_id=POINT)
    with pytest.raises(RLTransformerError, match="less than one"):
        Control.of(setup).dataset(0.1)
    halves = [Control.of(setup).dataset(0.5, seed=seed) for seed in range(6)]
    assert {len(half) for half in halves} == {2}
    assert len({half.fingerprint for half in halves}) > 1


def test_one_policy_is_trained_once_for_the_same_configuration_and_data(tmp_path, monkeypatch):
    from rl_transformer.reproductions import arms

    calls = []
    monkeypatch.setattr(arms, "train", lambda config, **rest: calls.append(config.output) or train(config, **rest))
    setup = Setup(quick=True, seeds=1, output=tmp_path / "out")
    options = {"training.train_steps": 3, "training.batch_size": 4, "model.hidden_size": 8, "training.warmup_steps": 1}
    first = cached_run(with_options(fast(), options), setup, point_data())
    began = (first / "policy" / "manifest.json").stat().st_mtime_ns
    assert cached_run(with_options(fast(), options), setup, point_data()) == first
    assert (first / "policy" / "manifest.json").stat().st_mtime_ns == began
    assert cached_run(with_options(fast(), options), setup, point_data(seed=1)) != first
    assert cached_run(with_options(fast(), {**options, "training.seed": 1}), setup, point_data()) != first
    with pytest.raises(KeyError):
        with_options(fast(), {"training.no_such_option": 1})


def test_a_terminated_parent_stops_its_workers_and_the_next_run_continues(tmp_path):
    command = [sys.executable, "-m", "rl_transformer", "reproduce", "stitching", "--quick", "--seeds", "4"]
    command += ["--jobs", "2", "--output", str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    cells, deadline = tmp_path / "out" / "cells", time.monotonic() + 120
    while not (cells.exists() and len(list(cells.glob("*.json"))) >= 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    told, _ = started.communicate(timeout=60)
    assert started.returncode == 143, told
    kept = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(kept) < 20
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ})
    assert len(list(cells.glob("*.json"))) == 20
    assert all((cells / name).stat().st_mtime_ns == changed for name, changed in kept.items())


def test_policies_in_training_are_saved_when_the_parent_is_terminated(tmp_path):
    command = [sys.executable, "-m", "rl_transformer", "reproduce", "locomotion", "--jobs", "2"]
    command += ["--output", str(tmp_path / "out")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while len(list((tmp_path / ".runs").glob("*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)  # the first rows are written when ten seconds of training have passed
    started.send_signal(signal.SIGTERM)
    told, _ = started.communicate(timeout=60)
    assert started.returncode == 143, told
    assert "same command" in told
    assert len(list((tmp_path / ".runs").glob("*/checkpoints/step-*/manifest.json"))) == 2


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
    assert reproduce(corrected, setup, jobs=1, command="rlt")["rules"]["keeps"]["holds"]


def test_tables_hold_what_a_bar_would_break(coin, tmp_path, monkeypatch):
    monkeypatch.setattr(Coin, "rules", {"high": "|mean| is 1 or more", "known": "the mean is a number"})
    run(coin, tmp_path / "coin")
    assert r"| \|mean\| is 1 or more | 2.0 | holds |" in (tmp_path / "coin" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_runs_quickly(name, tmp_path):
    assert main(["reproduce", name, "--quick", "--output", str(tmp_path / "results" / name)]) == 0
    result = json.loads((tmp_path / "results" / name / "result.json").read_text())
    assert {"name", "quick", "verdict", "command", "versions", "hardware", "interval_over"} <= set(result)
    assert (result["name"], result["quick"], result["verdict"]) == (name, True, "not established")
    for file in ("README.md", "figure.png", "protocol.json"):
        assert (tmp_path / "results" / name / file).stat().st_size > 0


def test_random_actions_and_the_environments_draws_are_independent():
    environment = make_environment(KEY_TO_DOOR).unwrapped
    data = TrajectoryDataset.in_memory(*record_episodes(environment, KEY_TO_DOOR, 4_000, seed=0))
    first = data.offsets[:-1]
    start_column = np.round(data.observations[first, 4] * 10).astype(int)
    table = np.zeros((5, 4))
    np.add.at(table, (start_column - 1, data.actions[first]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_graphs_reach_the_goal_from_everywhere_by_the_steps_that_a_search_finds():
    for seed in range(5):
        edges = random_graph(seed)
        found = distances(edges)
        assert np.isfinite(found).all()
        assert not edges.diagonal().any()
        for node in range(NUM_NODES):
            frontier, steps = {node}, 0
            while GOAL not in frontier:
                frontier = {int(n) for at in frontier for n in np.flatnonzero(edges[at])}
                steps += 1
            assert found[node] == steps


def test_a_graph_walk_costs_one_a_step_stays_without_an_edge_and_starts_where_the_seed_says():
    env = make_environment(graph_walk(3)).unwrapped
    starts = [int(env.reset(seed=seed)[0].argmax()) for seed in range(NUM_NODES - 1)]
    assert sorted(starts) == list(range(1, NUM_NODES))
    missing = int(np.flatnonzero(~env.edges[starts[-1]])[0])
    seen, reward, terminated, _, _ = env.step(missing)
    assert (int(seen.argmax()), reward, terminated) == (starts[-1], -1.0, False)
    found, node, total = distances(env.edges), env.reset(seed=4)[0].argmax(), 0.0
    wanted = found[node]
    while not terminated:
        node = min(np.flatnonzero(env.edges[node]), key=lambda n: found[n])
        _, reward, terminated, _, _ = env.step(node)
        total += reward
    assert total == -wanted


def test_the_t_maze_shows_its_cue_once_and_alternates_it():
    env = make_environment(t_maze(4)).unwrapped
    for seed in range(6):
        seen, _ = env.reset(seed=seed)
        assert seen[0] == (1.0 if seed % 2 == 0 else -1.0)
        rewards, shown = [], []
        over = False
        while not over:
            seen, reward, over, _, _ = env.step(1)
            rewards.append(reward)
            shown.append(seen[0])
        assert len(rewards) == 5
        assert not any(shown)
        assert sum(rewards) == rewards[-1] == float(seed % 2 == 0)


def test_the_gamble_pays_what_it_says():
    env = make_environment(GAMBLING).unwrapped
    for action, outcomes in enumerate(OUTCOMES):
        earned = []
        for seed in range(400):
            env.reset(seed=seed)
            earned.append(env.step(action)[1])
        assert set(earned) == set(outcomes)
        assert np.mean(earned) == pytest.approx(np.mean(outcomes), abs=2)


@pytest.mark.parametrize(
    ("actions", "earned"), [((GO, TO_G), 1.0), ((GO, TO_X), 0.0), ((LEAVE,), 0.5), ((TO_G, TO_G), 1.0)]
)
def test_the_stitching_task_pays_what_it_says(actions, earned):
    env = make_environment(STITCHING).unwrapped
    env.reset(seed=0)
    total = over = 0
    for action in actions:
        assert not over
        _, reward, over, _, _ = env.step(action)
        total += reward
    assert over
    assert total == earned


def test_cells_are_the_same_alone_and_in_a_pool(tmp_path):
    folders = [tmp_path / "alone" / "stitching", tmp_path / "pool" / "stitching"]
    for folder, jobs in zip(folders, ("1", "2"), strict=True):
        assert main(["reproduce", "stitching", "--quick", "--jobs", jobs, "--output", str(folder)]) == 0
    one, other = (json.loads((folder / "result.json").read_text())["rows"] for folder in folders)
    assert one == other


RESULTS = Path(__file__).parent.parent / "reproductions" / "results"


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_committed_result_is_what_the_present_code_says_of_its_cells(name):
    folder, experiment = RESULTS / name, find_experiment(name)
    result, protocol = (json.loads((folder / f"{file}.json").read_text()) for file in ("result", "protocol"))
    setup = Setup(quick=False, seeds=result["seeds"], output=folder, data=protocol["data"], env_id=protocol["env_id"])
    assert not result["quick"]
    assert protocol["rules"] == experiment.rules
    assert protocol["recipe"] == result["recipe"] == read_back(experiment.recipe(setup))
    cells = experiment.cells(setup)
    measured = [json.loads(cell_file(setup, cell).read_text()) for cell in cells]
    assert all(row | cell == row for row, cell in zip(measured, cells, strict=True))
    summary = experiment.summarize(measured, setup)
    assert read_back([{"what": r.what, **r.score, "published": r.published} for r in summary.rows]) == result["rows"]
    assert verdict(experiment, setup, summary) == result["verdict"]
    told = {"pass": "PASS", "fail": "FAIL", "not established": "not established"}[result["verdict"]]
    assert (folder / "README.md").read_text().splitlines()[0] == f"# {experiment.title}: {told}"
    page = (RESULTS.parent.parent / "docs" / "reproductions.md").read_text()
    assert f"[{name}](../reproductions/results/{name}/README.md) | {told} |" in page
