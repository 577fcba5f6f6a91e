"""One action: a live session against the forward pass of transformers' model on the same window."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedActor, load_published_model
from rl_transformer.bench.workloads import make_config, make_run, synthetic_data
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.policy import Policy, SessionBatch
from rl_transformer.runtime.types import JsonObject

CONTEXT = 20
_OBSERVATIONS = 64  # random observations that are used in turn


def bench_act(*, repeats: int) -> list[JsonObject]:
    """Time single actions, and sliding-window against full attention, for the paper's Hopper model."""
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


def untrained(attention: Literal["full", "sliding_window"]) -> Policy:
    """Return a policy of the paper's Hopper size with its initial weights."""
    config = make_config("hopper", "float32")
    config.model.attention = attention
    return make_run(config, synthetic_data(20_000)).policy


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


class LiveSessions:
    """Sessions that act on random observations, their windows full."""

    def __init__(self, policy: Policy, count: int) -> None:
        self._policy = policy
        self._sessions = SessionBatch(policy, [100.0] * count, range(count))
        self._rows = np.arange(count)
        self._rewards = np.zeros(count)
        random = np.random.default_rng(0)
        self._observations = random.standard_normal((_OBSERVATIONS, count, 11)).astype(np.float32)
        self._step = 0
        for _ in range(2 * CONTEXT):
            self.act()

    def act(self) -> None:
        """Act once and observe."""
        self._sessions.act(self._rows, self._observations[self._step % _OBSERVATIONS])
        self._sessions.observe(self._rows, self._rewards)
        self._step += 1

    def newest_window(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the model's inputs for the first session's last full window."""
        steps = self._sessions.step[:1, None] - np.arange(CONTEXT, 0, -1)
        states, actions, conditions, timesteps = self._sessions._history.take(self._rows[:1], steps)
        return states, actions, conditions, timesteps

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the newest action of a window, as a session computes it."""
        return self._policy.model.predict_actions(*inputs, at=CONTEXT - 1)
