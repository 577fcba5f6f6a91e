"""One action: a live session against the forward pass of transformers' model on the same window."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_transformer.bench import timing
from rl_transformer.bench.published import PublishedActor, load_published_model
from rl_transformer.bench.train import configuration, synthetic
from rl_transformer.policy import Policy, SessionBatch
from rl_transformer.run import assemble
from rl_transformer.training.distributed import ProcessGroup

CONTEXT = 20


def bench_act(*, repeats: int) -> list[dict[str, Any]]:
    """Time single actions, and streaming against windows, for the paper's Hopper model with full windows."""
    window, streaming = untrained("window"), untrained("streaming")
    one = Live(window, 1)
    with tempfile.TemporaryDirectory() as folder:
        published = published_actor(window, Path(folder))
    inputs = one.newest_window()
    timed = timing.interleaved(
        {"ours": one.act, "model": lambda: one.model(inputs), "baseline": lambda: published.forward(*inputs)},
        repeats=repeats,
        calls=20,
        warmup=2 * CONTEXT,
    )
    rows = [
        timing.row(timed, benchmark="act", what="session.act and observe, batch 1, against transformers' forward"),
        timing.row(
            {"ours": timed["model"], "baseline": timed["baseline"]},
            benchmark="act",
            what="our model's forward, batch 1, against transformers' forward",
        ),
    ]
    for sessions in (1, 64):
        sides = {"ours": Live(streaming, sessions).act, "baseline": Live(window, sessions).act}
        timed = timing.interleaved(sides, repeats=repeats, calls=5, warmup=2 * CONTEXT)
        what = f"streaming attention against windows, both ours, {sessions} sessions"
        rows.append(timing.row(timed, benchmark="act", what=what))
    return rows


def untrained(attention: str) -> Policy:
    """Return a policy of the paper's Hopper size with its initial weights."""
    config = configuration("hopper", "float32")
    config.model.attention = attention  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        config.output = folder
        return assemble(config, synthetic(20_000), torch.device("cpu"), ProcessGroup())[0]


def published_actor(policy: Policy, folder: Path) -> PublishedActor:
    """Return the published loop with the same weights, by way of a folder in transformers' layout."""
    policy.model.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    mean, scale = policy.scaling.observation_mean, policy.scaling.observation_scale
    assert mean is not None
    assert scale is not None
    return PublishedActor(
        load_published_model(folder),
        mean=mean.numpy(),
        std=scale.numpy(),
        scale=policy.spec.return_rule.scale,
        context_length=policy.spec.context_length,
    )


class Live:
    """Sessions that act on random observations, their windows full."""

    def __init__(self, policy: Policy, count: int) -> None:
        self._policy, self._sessions = policy, SessionBatch(policy, [100.0] * count, range(count))
        self._rows, self._rewards = np.arange(count), np.zeros(count)
        self._observations = np.random.default_rng(0).standard_normal((64, count, 11)).astype(np.float32)
        self._t = 0
        for _ in range(2 * CONTEXT):
            self.act()

    def act(self) -> None:
        """Act once and observe."""
        self._sessions.act(self._rows, self._observations[self._t % 64])
        self._sessions.observe(self._rows, self._rewards)
        self._t += 1

    def newest_window(self) -> tuple[torch.Tensor, ...]:
        """Return the model's inputs for the first session's last full window."""
        steps = self._sessions.step[:1, None] - np.arange(CONTEXT, 0, -1)
        states, actions, conditions, timesteps = self._sessions._history.take(self._rows[:1], steps)
        return states, actions, conditions, timesteps

    @torch.inference_mode()
    def model(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the newest action of a window, as a session computes it."""
        return self._policy.model.predict_actions(*inputs, at=CONTEXT - 1)
