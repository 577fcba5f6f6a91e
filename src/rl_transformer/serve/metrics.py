"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rl_transformer.serve.live_sessions import LiveSessions

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServerMetrics:
    """The metrics of one server; no label holds anything that a client has sent."""

    def __init__(self, sessions: LiveSessions) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rlt_requests", "Answers by route and status.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "rlt_request_seconds",
            "Seconds from a request's arrival to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_sessions = Histogram(
            "rlt_batch_sessions",
            "Sessions that acted together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "rlt_batch_seconds", "Seconds of compute for such a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.reloads = Counter(
            "rlt_policy_reloads", "Newer policies that were loaded, or refused.", ["result"], registry=self.registry
        )
        live = Gauge("rlt_sessions", "Live sessions.", registry=self.registry)
        live.set_function(lambda: len(sessions))
        policies = Gauge("rlt_policies", "Policies with live sessions, and the newest.", registry=self.registry)
        policies.set_function(lambda: len(sessions.engines))

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)
