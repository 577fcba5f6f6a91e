"""Many live sessions in one batch, against one session at a time: latency per action and memory per session."""

from __future__ import annotations

import gc
import time
from typing import Literal, get_args

import numpy as np
import torch

from rl_transformer.bench import timing
from rl_transformer.bench.workloads import make_config, make_run, synthetic_data
from rl_transformer.policy import Policy, SessionBatch
from rl_transformer.runtime.types import JsonObject

Attention = Literal["full", "sliding_window"]
CONTEXT = 20
_OBSERVATIONS = 64  # random observations that are used in turn
_SINGLE_CALLS = 20  # of the single session, for each call of the batch


def bench_live_sessions(count: int, repeats: int) -> list[JsonObject]:
    """Return a row for full and one for sliding-window attention, both for the paper's Hopper model.

    Args:
        count: Sessions in the batch.
        repeats: Calls of the batch; in each all sessions act and observe.
    """
    rows = []
    for attention in get_args(Attention):
        policy = untrained(attention)
        batch = LiveSessions(policy, count)
        single = LiveSessions(policy, 1)
        calls = []
        actions = []
        gc.collect()
        for _ in range(repeats):
            calls.append(_seconds(batch))
            actions += [_seconds(single) for _ in range(_SINGLE_CALLS)]
        times = {"ours": _summarize([seconds / count for seconds in calls]), "baseline": _summarize(actions)}
        what = f"{count} sessions in one batch against one session at a time, {attention.replace('_', '-')} attention"
        row = timing.make_row(times, benchmark="act", what=what, sessions=count, attention=attention)
        # Between two calls every session waits for the whole batch.
        row["call"] = _summarize(calls)
        row["context_length"] = CONTEXT
        row["memory_per_session_kib"] = round(batch.memory_bytes / count / 1024, 1)
        rows.append(row)
    return rows


def _seconds(sessions: LiveSessions) -> float:
    began = time.perf_counter()
    sessions.act()
    return time.perf_counter() - began


def _summarize(seconds: list[float]) -> timing.Times:
    """Return median, minimum and 99th percentile in milliseconds."""
    return {**timing.summarize(seconds), "p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 4)}


def untrained(attention: Attention) -> Policy:
    """Return a policy of the paper's Hopper size with its initial weights."""
    config = make_config("hopper", "float32")
    config.model.attention = attention
    return make_run(config, synthetic_data(20_000)).policy


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

    @property
    def memory_bytes(self) -> int:
        """Return the memory of histories and caches."""
        return self._sessions.nbytes

    def newest_window(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the model's inputs for the first session's last full window."""
        steps = self._sessions.step[:1, None] - np.arange(CONTEXT, 0, -1)
        states, actions, conditions, timesteps = self._sessions._history.take(self._rows[:1], steps)
        return states, actions, conditions, timesteps

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the newest action of a window, as a session computes it."""
        return self._policy.model.predict_actions(*inputs, at=CONTEXT - 1)
