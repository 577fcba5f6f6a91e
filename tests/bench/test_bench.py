"""Claims about the benchmarks: both sides compute the same thing, and a row has its fields. Nothing is timed."""

import functools
import json
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rl_transformer import RLTransformerError
from rl_transformer.bench import bench, timing, train, workloads
from rl_transformer.bench.act import LiveSessions, published_actor, untrained
from rl_transformer.bench.evaluate import bench_evaluate
from rl_transformer.bench.published import PublishedSampler, load_published_model
from rl_transformer.cli.main import main
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.launch.seeds import assemble_run
from rl_transformer.models.trunk import cpu_linear
from rl_transformer.training.losses import action_loss
from rl_transformer.windows.sampling import WindowIndex
from tests.toys import POINT, point_data, tiny_config

pytest.importorskip("transformers", reason="the baseline is transformers' model")
PLAIN = {"model": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "returns": {"scale": 2.0}}


def plain_run(tmp_path):
    return assemble_run(tiny_config(tmp_path / "none", **PLAIN), point_data())


class FixedStarts:
    """Stands in for a generator: the windows begin at the given steps."""

    def __init__(self, starts):
        self.integers = lambda *_: next(starts)


def test_both_sides_compute_the_same_loss_on_the_same_windows(tmp_path):
    run = plain_run(tmp_path)
    run.policy.model.save_pretrained(tmp_path / "model")
    published = load_published_model(tmp_path / "model")
    data = point_data()
    sampler = PublishedSampler(
        data,
        context_length=run.policy.spec.context_length,
        scale=2.0,
        max_ep_len=run.policy.spec.model.max_ep_len,
        seed=0,
    )
    episodes = np.array([3, 0, 7, 3])
    starts = np.array([0, 5, 11, 9])  # whole windows and short ones
    sampler.random = FixedStarts(iter(starts.tolist()))
    columns = [np.concatenate(column) for column in zip(*(sampler._window(int(e)) for e in episodes), strict=True)]
    states, actions, returns, timesteps, mask = (torch.from_numpy(np.ascontiguousarray(c)) for c in columns)
    predicted = published(
        states=states.float(),
        actions=actions.float(),
        returns_to_go=returns.float(),
        timesteps=timesteps.long(),
        attention_mask=mask.long(),
    ).action_preds
    real = mask > 0
    expected = F.mse_loss(predicted[real], actions[real].float())
    batch = run.windows.gather(WindowIndex(data.offsets[episodes] + starts, episodes))
    assert int(batch.valid_mask.sum()) == int(real.sum()) < mask.numel()
    torch.testing.assert_close(action_loss(run.policy.model.eval(), batch), expected, atol=1e-6, rtol=1e-5)


def test_the_published_sampler_draws_every_step_equally_often():
    data = point_data(6)
    sampler = PublishedSampler(data, context_length=4, scale=1.0, max_ep_len=20, seed=0)
    drawn = [sampler.draw(60) for _ in range(100)]
    lengths = torch.cat([batch[4].sum(1) for batch in drawn]).long()
    # Of 12 steps an episode, the last three begin windows of 3, 2 and 1 steps.
    counts = torch.bincount(lengths, minlength=5)[1:] / len(lengths)
    np.testing.assert_allclose(counts, [1 / 12, 1 / 12, 1 / 12, 9 / 12], atol=0.02)


def test_both_sides_act_alike(tmp_path):
    """One episode at a time with transformers' model, and ours: the same returns, so the comparison is fair."""
    policy = plain_run(tmp_path).policy
    published = published_actor(policy, tmp_path / "model")
    environment = make_environment(POINT)
    ours = run_episodes(policy, POINT, [3.0, 9.0], [5, 6])
    for episode, target in zip(ours, (3.0, 9.0), strict=True):
        total, length = published.episode(environment, target, episode.seed)
        assert length == episode.episode_length
        assert total == pytest.approx(episode.episode_return, abs=1e-4)


def test_a_session_and_both_forward_passes_compute_the_same_action(tmp_path):
    policy = untrained("full")
    session = LiveSessions(policy, 1)
    inputs = session.newest_window()
    published = published_actor(policy, tmp_path)
    torch.testing.assert_close(session.predict(inputs)[0], published.forward(*inputs), atol=1e-5, rtol=1e-4)


def test_an_evaluation_row_has_its_fields_and_compares_the_returns(tmp_path):
    run = plain_run(tmp_path)
    run.policy.save(tmp_path / "policy")
    (row,) = bench_evaluate(
        policy=str(tmp_path / "policy"), env_id=POINT, target_return=[3.0, 9.0], num_episodes=3, baseline_episodes=2
    )
    assert {"benchmark", "what", "targets", "ratio", "threads", "same_distribution_p_value"} <= set(row)
    assert row["what"] == "exact windows"
    assert (row["ours"]["environment_steps"], row["baseline"]["environment_steps"]) == (72, 48)
    assert (len(row["ours"]["returns"]), len(row["baseline"]["returns"])) == (6, 4)
    assert row["ratio"] == pytest.approx(row["baseline"]["median_ms"] / row["ours"]["median_ms"], rel=0.01)


@pytest.fixture
def small(monkeypatch):
    tiny = {"model.hidden_size": 16, "model.n_layer": 2, "training.batch_size": 4, "windows.context_length": 5}
    monkeypatch.setitem(workloads.SIZES, "hopper", tiny)
    monkeypatch.setattr(train, "matrix_peak", lambda precision: 1e9)
    monkeypatch.setattr(timing, "describe_hardware", dict)
    # In this process, which has the small sizes; processes of their own are tested below.
    monkeypatch.setattr(
        timing,
        "time_in_processes",
        lambda sides, **options: timing.time_in_turns({n: make() for n, make in sides.items()}, **options),
    )


def test_a_training_row_has_its_fields(small, tmp_path, capsys):
    assert main(["bench", "train", "--repeats", "1", "--threads", "1", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["dtype"], row["baseline_dtype"]) for row in rows] == [
        ("float32", "float32"),
        ("bfloat16", "float32"),
        ("bfloat16", "bfloat16"),
    ]
    for row in rows:
        assert {"ours", "baseline", "ratio", "dtype", "threads", "device", "versions"} <= set(row)
        assert row["ratio"] == pytest.approx(row["baseline"]["median_ms"] / row["ours"]["median_ms"], rel=0.01)
        assert row["threads"] == 1
        assert row["dropout"] == 0.1  # as published, on both sides
    assert {row["float32_products"] for row in rows} == {cpu_linear.float32_products()}
    out = capsys.readouterr().out
    assert out.count("ratio") == 3
    assert f"our float32 matrix products on this CPU: {cpu_linear.float32_products()}" in out


def make_sleeper(seconds):
    return functools.partial(time.sleep, seconds)


def test_sides_in_processes_of_their_own_take_turns():
    sides = {"ours": functools.partial(make_sleeper, 0.0), "baseline": functools.partial(make_sleeper, 0.02)}
    times = timing.time_in_processes(sides, repeats=3, calls=2)
    assert times["baseline"]["min_ms"] >= 20 > times["ours"]["median_ms"]
    assert times["ours"]["peak_memory_mib"] > 0
    assert timing.make_row(times)["ratio"] > 1


def test_the_data_benchmark_writes_and_reads_a_store(small, tmp_path):
    rows = bench("data", repeats=1, store_steps=3000)
    assert [row["steps"] for row in rows] == [200_000, 3000]


def test_sliding_window_and_full_attention_are_compared_at_one_size():
    sliding_window = untrained("sliding_window")
    full = untrained("full")
    assert sliding_window.spec.model.attention_span == full.spec.context_length == 20
    assert sliding_window.spec.model.hidden_size == full.spec.model.hidden_size == 128


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("speed", {}, "no benchmark 'speed'"),
        ("act", {"sizes": ["hopper"]}, "has no effect on act"),
        ("train", {"sizes": ["huge"]}, "no size 'huge'"),
        ("train", {"repeats": 0}, "0 is not positive"),
        ("evaluate", {"env_id": "Hopper-v5"}, "is missing"),
    ],
)
def test_slips_get_a_message(name, options, message):
    with pytest.raises(RLTransformerError, match=message):
        bench(name, **options)


def test_a_row_of_live_sessions_has_its_fields(small, tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert main(["bench", "act", "--sessions", "3", "--repeats", "2", "--threads", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["attention"] for row in rows] == ["full", "sliding_window"]
    for row in rows:
        assert {"what", "ours", "baseline", "ratio", "call", "threads", "versions", "hardware"} <= set(row)
        assert {"median_ms", "min_ms", "p99_ms"} == set(row["ours"]) == set(row["baseline"]) == set(row["call"])
        assert row["sessions"] == 3
        assert row["call"]["median_ms"] == pytest.approx(3 * row["ours"]["median_ms"], rel=0.05)
        assert row["memory_per_session_kib"] > 0
    assert capsys.readouterr().out.count("KiB per session") == 2
    with pytest.raises(RLTransformerError, match="0 is not positive"):
        bench("act", sessions=0)
    with pytest.raises(RLTransformerError, match="has no effect on train"):
        bench("train", sessions=3)
