"""Claims about scores: every episode counts once, batches change nothing, intervals are what they say."""

import json
import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest

from rl_transformer import RLTransformerError, evaluate, load_policy, train
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation import episodes as episodes_module
from rl_transformer.evaluation import statistics
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.evaluation.plots import plot_data, plot_target_vs_achieved
from rl_transformer.evaluation.video import save_video
from rl_transformer.runtime import disk
from rl_transformer.runtime.files import WriteError
from rl_transformer.runtime.machine import cpu_threads
from rl_transformer.runtime.workers import run_in_processes
from rl_transformer.training.metrics import read_metrics
from rl_transformer.trajectories import TrajectoryDataset
from tests.runtime.faulty_disk import FaultyDisk
from tests.toys import POINT, PointEnv, point_data, tiny_config


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(train(tiny_config(tmp_path_factory.mktemp("run") / "r"), dataset=point_data()))


@pytest.fixture(scope="module")
def cloner(tmp_path_factory):
    return load_policy(
        train(tiny_config(tmp_path_factory.mktemp("run") / "r", model={"conditions": []}), dataset=point_data())
    )


def one_at_a_time(policy, target, seed):
    environment = PointEnv()
    session = policy.session(target, seed=seed)
    total = 0.0
    length = 0
    over = False
    observation, _ = environment.reset(seed=seed)
    while not over:
        observation, reward, terminated, truncated, _ = environment.step(session.act(observation))
        session.observe(reward)
        total += reward
        length += 1
        over = terminated or truncated
    return total, length


@pytest.mark.parametrize("max_live", [1, 3, 100])
def test_a_batch_gives_the_returns_of_single_episodes_to_the_bit(policy, max_live):
    targets = [3.0, 3.0, 9.0, 9.0, 5.0]
    seeds = [1, 2, 1, 2, 7]
    episodes = run_episodes(policy, POINT, targets, seeds, max_live=max_live)
    assert [(e.episode_return, e.episode_length) for e in episodes] == [
        one_at_a_time(policy, t, s) for t, s in zip(targets, seeds, strict=True)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_that_share_the_episodes_change_nothing(policy, processes):
    targets = [3.0, 9.0, 5.0, 6.0, 2.0]
    seeds = [1, 2, 3, 4, 5]
    episodes = run_episodes(policy, POINT, targets, seeds, processes=processes)
    assert [(e.target_return, e.seed) for e in episodes] == list(zip(targets, seeds, strict=True))
    assert [(e.episode_return, e.episode_length) for e in episodes] == [
        one_at_a_time(policy, t, s) for t, s in zip(targets, seeds, strict=True)
    ]


def test_many_episodes_are_shared_among_the_threads_and_few_are_not(policy, monkeypatch):
    started = []

    def run_here(share, count, check):
        started.append(count)
        return [share(which) for which in range(count)]

    monkeypatch.setattr(episodes_module, "run_in_processes", run_here)
    with cpu_threads(2):
        run_episodes(policy, POINT, [5.0] * 32, range(32))
        run_episodes(policy, POINT, [5.0] * 31, range(31))
    assert started == [2]


def test_what_goes_wrong_in_a_process_is_raised_here():
    def fails(which):
        raise RLTransformerError("is broken", where=f"episode {which}", fix="repair it")

    with pytest.raises(RLTransformerError, match=r"is broken\n  fix: repair it"):
        run_in_processes(fails, 2)
    with pytest.raises(RLTransformerError, match="a process that ran episodes has died"):
        run_in_processes(lambda which: os.kill(os.getpid(), signal.SIGKILL), 2)


def test_processes_are_killed_when_the_parent_has_to_stop():
    begun = time.monotonic()
    looks = []

    def check():
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(lambda which: time.sleep(60), 2, check)
    assert time.monotonic() - begun < 30
    assert not multiprocessing.active_children()


def test_episodes_of_unequal_length_are_all_counted_and_their_slots_used_again(policy, monkeypatch):
    lengths = iter([3, 9, 5, 2, 12, 1, 4])

    def reset(self, *, seed=None, options=None):
        observation, info = genuine(self, seed=seed)
        self.length = next(lengths)
        return observation, info

    genuine = PointEnv.reset
    monkeypatch.setattr(PointEnv, "reset", reset)
    episodes = run_episodes(policy, POINT, [5.0] * 7, range(7), max_live=2)
    assert sorted(e.episode_length for e in episodes) == [1, 2, 3, 4, 5, 9, 12]


def test_every_target_meets_the_same_seeds(policy):
    report = evaluate(policy, env_id=POINT, target_returns=[4.0, 4.0], num_episodes=3, seed=5)
    first, second = report.targets
    assert first.episode_returns == second.episode_returns
    assert len(set(first.episode_returns)) == 3
    assert report.seed == 5


def test_each_target_is_reported_with_its_own_episodes(policy):
    report = evaluate(policy, env_id=POINT, target_returns=[2.0, 10.0], num_episodes=3, seed=5)
    for target in report.targets:
        expected = [one_at_a_time(policy, target.target_return, seed) for seed in (5, 6, 7)]
        assert list(zip(target.episode_returns, target.episode_lengths, strict=True)) == expected
    assert report.targets[0].episode_returns != report.targets[1].episode_returns


def test_the_report_has_the_promised_fields_and_nothing_undefined(policy):
    report = json.loads(
        json.dumps(evaluate(policy, env_id=POINT, target_returns=[4.0], num_episodes=1).to_dict(), allow_nan=False)
    )
    assert {"env_id", "policy", "num_episodes", "seed", "versions", "targets"} <= set(report)
    (target,) = report["targets"]
    assert {
        "target_return", "episode_returns", "episode_lengths", "mean", "standard_error", "interval", "interval_over",
        "normalized_score", "reference",
    } <= set(target)  # fmt: skip
    undefined = ("standard_error", "interval", "normalized_score", "reference")
    assert [target[name] for name in undefined] == [None] * 4
    assert target["interval_over"] == "episodes"
    assert report["policy"] == policy.content_hash


def test_wilson_intervals_are_those_of_the_formula():
    rate = 0.718
    episodes = 500
    z = 1.959964
    center = (rate + z**2 / (2 * episodes)) / (1 + z**2 / episodes)
    half = z / (1 + z**2 / episodes) * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2))
    found = statistics.success_rate(359, 500)
    assert found["interval"] == pytest.approx([center - half, center + half], abs=1e-6)
    assert statistics.interquartile_mean([0, 1, 2, 100]) == 1.5
    assert statistics.rank_correlation([1, 2, 3], [5, 5, 5]) is None
    assert statistics.rank_correlation([1, 2, 3], [5, 6, 9]) == 1


def test_behavior_cloning_is_evaluated_without_a_target(cloner):
    report = evaluate(cloner, env_id=POINT, num_episodes=2)
    assert [t.target_return for t in report.targets] == [None]
    assert report.rank_correlation is None
    with pytest.raises(RLTransformerError, match="takes no target return"):
        evaluate(cloner, env_id=POINT, target_returns=[1.0], num_episodes=2)


def test_an_environment_that_does_not_fit_the_policy_is_refused(policy):
    with pytest.raises(
        RLTransformerError, match="observations are vectors of 4, and the policy was trained on vectors of 2"
    ):
        evaluate(policy, env_id="CartPole-v1", target_returns=[1.0], num_episodes=1)
    with pytest.raises(RLTransformerError, match="did you mean CartPole-v1"):
        make_environment("CartPol-v1")


def test_recorded_episodes_are_what_happened(policy):
    environment = PointEnv()
    spec, trajectories = record_episodes(environment, POINT, 3, seed=4, policy=policy, target=6.0)
    data = TrajectoryDataset.in_memory(spec, trajectories)
    assert data.lengths.tolist() == [12, 12, 12]
    assert data.episode_returns.tolist() == pytest.approx(
        [one_at_a_time(policy, 6.0, seed)[0] for seed in (4, 5, 6)], abs=1e-9
    )
    moved = np.diff(data.observations[:12, 0])
    np.testing.assert_allclose(moved, data.actions[:11, 0], atol=1e-5)
    random = TrajectoryDataset.in_memory(*record_episodes(environment, POINT, 2, seed=4))
    again = TrajectoryDataset.in_memory(*record_episodes(environment, POINT, 2, seed=4))
    assert random.fingerprint == again.fingerprint


def test_charts_and_videos_are_written(policy, cloner, tmp_path):
    from PIL import Image

    reports = {name: evaluate(p, env_id=POINT, num_episodes=2) for name, p in (("dt", policy), ("bc", cloner))}
    plot_target_vs_achieved(reports, point_data().episode_returns.tolist(), tmp_path / "achieved.png")
    plot_data([1.0, 2.0], [3, 4], tmp_path / "data.png")
    for name in ("achieved.png", "data.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 500
    frames = run_episodes(policy, POINT, [5.0, 5.0], [0, 1], record=1)[0].frames
    assert len(frames) == 12
    save_video(frames, str(tmp_path / "v.gif"))
    with Image.open(tmp_path / "v.gif") as animation:
        assert animation.n_frames > 1
    save_video(frames, str(tmp_path / "v.mp4"))
    assert (tmp_path / "v.mp4").stat().st_size > 500
    with pytest.raises(RLTransformerError, match=r"neither a \.gif nor an \.mp4"):
        save_video(frames, str(tmp_path / "v.avi"))


@pytest.mark.parametrize("name", ["it.png", "it.svg", "it.gif", "it.mp4"])
def test_pictures_and_videos_are_the_old_ones_or_the_new_ones(name, tmp_path, monkeypatch):
    path = tmp_path / name

    def write(frames):
        if path.suffix in (".png", ".svg"):
            plot_data(range(frames), range(frames), path)
        else:
            save_video(np.zeros((frames, 16, 16, 3), np.uint8), str(path))

    write(3)
    old = path.read_bytes()
    monkeypatch.setattr(disk, "DISK", FaultyDisk(fails_at=0, way="full"))
    with pytest.raises(WriteError, match=re.escape(str(path))):
        write(30)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write(30)
    assert path.read_bytes() != old


def test_evaluation_while_training_reports_the_policy_that_would_be_saved(tmp_path):
    options = {
        "evaluation": {"env_id": POINT, "target_returns": [4.0], "num_episodes": 2, "every": 6},
        "training": {"ema_decay": 0.9},
    }
    folder = train(tiny_config(tmp_path / "run", **options), dataset=point_data())
    rows = [row for row in read_metrics(folder) if "return_at_4" in row]
    assert [row["step"] for row in rows] == [6, 12]
    report = json.loads((folder / "report.json").read_text())
    assert rows[-1]["return_at_4"] == report["targets"][0]["mean"]
    best = max(rows, key=lambda row: row["return_at_4"])
    expected = {"last": rows[-1]["return_at_4"], "best": best["return_at_4"], "best_step": best["step"]}
    assert report["while_training"] == {"return_at_4": expected}
    again = evaluate(load_policy(folder), env_id=POINT, target_returns=[4.0], num_episodes=2)
    assert report["targets"][0]["mean"] == again.targets[0].mean
    quiet = train(tiny_config(tmp_path / "quiet", training={"ema_decay": 0.9}), dataset=point_data())
    assert load_policy(quiet).content_hash == load_policy(folder).content_hash  # evaluation leaves training alone
