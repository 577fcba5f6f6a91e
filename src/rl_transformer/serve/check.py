"""Check a live server from outside: does it answer, with which policy, and does it act as that policy acts here?"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.runtime.types import JsonObject, Nested
from rl_transformer.serve.client import ServerClient
from rl_transformer.serve.values import to_plain
from rl_transformer.trajectories.spaces import Space

_FAR = 1e-6  # the server may run on another kind of machine, where sums are rounded differently


def check_server(
    url: str, *, token: str | None = None, policy: Policy | None = None, steps: int = 32
) -> list[JsonObject]:
    """Return what holds of a live server, as a list of {"name", "holds", "figure"}.

    Args:
        url: Its address.
        token: Its token, if it has one.
        policy: The policy that it should serve; None: only what needs none is checked.
        steps: How many actions are compared.

    Raises:
        RLTransformerError: Nothing answers there.
    """
    client = ServerClient(url, token)
    health, _ = client.request("GET", "/healthz")
    ready, content = client.request("GET", "/readyz")
    promises: list[JsonObject] = [
        {"name": "is alive", "holds": health == 200, "figure": health},
        {"name": "is ready", "holds": ready == 200, "figure": ready},
        {
            "name": "names its policy",
            "holds": len(str(content.get("policy", ""))) == 64,
            "figure": content.get("policy"),
        },
    ]
    if token is not None:
        # A server that checks no token opens a session here, which does no harm: it ends when it is idle.
        stranger = ServerClient(url)
        status, _ = stranger.request("POST", "/v1/sessions", {})
        stranger.close()
        promises.append({"name": "refuses a client without the token", "holds": status == 401, "figure": status})
    if policy is not None:
        is_same = content.get("policy") == policy.content_hash
        promises.append({"name": "serves this policy", "holds": is_same, "figure": policy.content_hash})
        if is_same:
            # Other weights act otherwise anyway, so this is compared only for the same ones.
            difference = _largest_difference(client, policy, steps)
            name = f"acts as the policy does here, over {steps} steps"
            promises.append({"name": name, "holds": difference <= _FAR, "figure": difference})
    client.close()
    return promises


def _largest_difference(client: ServerClient, policy: Policy, steps: int) -> float:
    """Return the largest difference between actions of the server and of a session here, on random observations."""
    spec = policy.spec
    random = np.random.default_rng(0)
    others = [condition for condition in spec.conditions if condition.name != "return_to_go"]
    # In the middle of what the training data shows, where the policy does not extrapolate.
    middles = {condition.name: sum(spec.target_ranges[condition.name]) / 2 for condition in others}
    targets = {c.name: middles[c.name] if c.width == 1 else [middles[c.name]] * c.width for c in others}
    outcomes = {condition.outcome: 0.0 for condition in spec.conditions if condition.outcome != "reward"}
    # The same seed on both sides: a policy that samples then draws the same numbers.
    session = client.open(None, 1, targets)
    here = policy.session(None, 1, targets=targets or None)
    largest = 0.0
    try:
        for _ in range(steps):
            observation = random_value(spec.data.observation_space, random)
            local = np.asarray(here.act(observation), np.float64)
            largest = max(largest, float(np.abs(local - client.act(session, _listed(observation))).max()))
            reward = float(random.normal())
            here.observe(reward, **outcomes)
            client.observe(session, reward, outcomes=outcomes)
    finally:
        # An error of the comparison says more than one while tidying up, which would hide it.
        with suppress(RLTransformerError):
            client.end(session)
    return largest


def random_value(space: Space, random: np.random.Generator) -> Nested:
    """Return a random value of an observation space."""
    if space.parts:
        values = [(name, random_value(part, random)) for name, part in space.parts]
        return dict(values) if space.kind == "dict" else tuple(value for _, value in values)
    if space.kind == "discrete":
        return int(space.start + random.integers(space.n))
    if space.kind == "multi_discrete":
        return np.reshape(random.integers(space.nvec) + space.starts, space.shape)
    if space.kind == "multi_binary":
        return random.integers(0, 2, space.shape)
    if np.dtype(space.dtype) == np.uint8:
        return random.integers(0, 256, space.shape, dtype=np.uint8)
    return random.normal(size=space.shape).astype(np.float32)


def _listed(value: Nested) -> Nested:
    """Return a value as lists and objects."""
    if isinstance(value, dict):
        return {name: _listed(part) for name, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, tuple) else to_plain(value)
