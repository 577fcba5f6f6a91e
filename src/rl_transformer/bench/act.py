"""One action: a live session against the forward pass of transformers' model on the same window."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rl_transformer.bench import timing
from rl_transformer.bench.live_sessions import CONTEXT, LiveSessions, bench_live_sessions, untrained
from rl_transformer.bench.published import PublishedActor, load_published_model
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject


def bench_act(*, repeats: int, sessions: int | None) -> list[JsonObject]:
    """Time single actions, and sliding-window against full attention, for the paper's Hopper model.

    With ``sessions`` a batch of so many is timed instead; see `bench_live_sessions`.
    """
    if sessions is not None:
        return bench_live_sessions(sessions, repeats)
    full = untrained("full")
    sliding_window = untrained("sliding_window")
    one_session = LiveSessions(full, 1)
    with tempfile.TemporaryDirectory() as folder:
        published = published_actor(full, Path(folder))
    inputs = one_session.newest_window()
    times = timing.time_in_turns(
        {
            "ours": one_session.act,
            "model": lambda: one_session.predict(inputs),
            "baseline": lambda: published.forward(*inputs),
        },
        repeats=repeats,
        calls=20,
        warmup=2 * CONTEXT,
    )
    rows = [
        timing.make_row(times, benchmark="act", what="session.act and observe, batch 1, against transformers' forward"),
        timing.make_row(
            {"ours": times["model"], "baseline": times["baseline"]},
            benchmark="act",
            what="our model's forward, batch 1, against transformers' forward",
        ),
    ]
    for count in (1, 64):
        sides = {"ours": LiveSessions(sliding_window, count).act, "baseline": LiveSessions(full, count).act}
        times = timing.time_in_turns(sides, repeats=repeats, calls=5, warmup=2 * CONTEXT)
        what = f"streaming attention against windows, both ours, {count} sessions"
        rows.append(timing.make_row(times, benchmark="act", what=what))
    return rows


def published_actor(policy: Policy, folder: Path) -> PublishedActor:
    """Return the published loop with the same weights, by way of a folder in transformers' layout."""
    assert isinstance(policy.model, DecisionTransformerModel)
    policy.model.save_pretrained(folder)
    mean = policy.normalizer.observation_mean
    scale = policy.normalizer.observation_scale
    assert mean is not None
    assert scale is not None
    return PublishedActor(
        load_published_model(folder),
        mean=mean.numpy(),
        std=scale.numpy(),
        scale=policy.spec.returns.scale,
        context_length=policy.spec.context_length,
    )
