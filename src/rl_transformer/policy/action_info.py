"""What is known about an action beside the action itself: its probability, and how familiar the situation is.

Shapes: R sessions that act now, F parameters of the action head, M length of a legal-action mask; *action are the axes
of one action, *shape those of one value of the action space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_transformer.policy.predictor import ActingPolicy
from rl_transformer.policy.support import share_at_least
from rl_transformer.runtime.shapes import Bool, Float, Float64, Shaped
from rl_transformer.runtime.types import JsonObject


def describe_actions(
    policy: ActingPolicy,
    parameters: Float[Tensor, "R F"],
    allowed: Bool[Tensor, "R M"] | None,
    drawn: Shaped[Tensor, "R *action"],
    executed: Shaped[Tensor, "R *action"],
    states: Shaped[Tensor, "R ..."],
    targets: Float64[np.ndarray, "R"] | None,
) -> list[JsonObject]:
    """Return for each action a dict that JSON can hold.

    Args:
        policy: The policy that acts.
        parameters: The action head's parameters.
        allowed: True at legal actions; None: all.
        drawn: Actions as the head chose them, in the model's units.
        executed: The same after clipping and rounding.
        states: The newest states, as the model reads them.
        targets: The return-to-go of each session; None if the policy is not conditioned on one.
    """
    count = len(parameters)
    probabilities = _probabilities(policy, parameters, allowed)
    densities = _log_densities(policy, parameters, executed)
    propensities, kinds = _propensities(policy, parameters, probabilities, densities, drawn, executed)
    nothing: list[Any] = [None] * count
    support = nothing if policy.support is None else policy.support.describe(states)
    quantiles = policy.spec.return_quantiles
    shares = nothing
    if targets is not None and quantiles is not None:
        shares = share_at_least(np.array(quantiles), targets).tolist()
    return [
        {
            "propensity": propensities[i],
            "propensity_kind": kinds[i],
            "action_probabilities": _listed(policy, probabilities, i),
            "log_density": None if densities is None else float(densities[i]),
            "support": support[i],
            "target": None if targets is None else float(targets[i]),
            "target_share": shares[i],
        }
        for i in range(count)
    ]


def _probabilities(
    policy: ActingPolicy, parameters: Float[Tensor, "R F"], allowed: Bool[Tensor, "R M"] | None
) -> tuple[Float[Tensor, "R _"], ...] | None:
    """Return the distribution of each part of a discrete action, or None if the head has none."""
    compute = getattr(policy.model.predict_action, "probabilities", None)
    return None if compute is None else compute(parameters, allowed)


def _listed(policy: ActingPolicy, probabilities: tuple[Float[Tensor, "R _"], ...] | None, row: int) -> Any:
    """Return a session's probabilities as a list, or one list per part of a multi-discrete action."""
    if probabilities is None:
        return None
    parts = [part[row].tolist() for part in probabilities]
    return parts if policy.spec.model.action_parts else parts[0]


def _log_densities(
    policy: ActingPolicy, parameters: Float[Tensor, "R F"], executed: Shaped[Tensor, "R *action"]
) -> Float[Tensor, "R"] | None:
    """Return the log density of each action in the environment's units, or None if the head has none."""
    compute = getattr(policy.model.predict_action, "log_densities", None)
    space = policy.spec.data.action_space
    # Whole numbers have probabilities rather than densities.
    if compute is None or np.dtype(space.dtype).kind != "f":
        return None
    scale = policy.normalizer.action_scale
    assert scale is not None
    by_dimension = compute(parameters, executed) - scale.log()
    return by_dimension[:, _can_vary(policy)].sum(-1)


def _propensities(
    policy: ActingPolicy,
    parameters: Float[Tensor, "R F"],
    probabilities: tuple[Float[Tensor, "R _"], ...] | None,
    densities: Float[Tensor, "R"] | None,
    drawn: Shaped[Tensor, "R *action"],
    executed: Shaped[Tensor, "R *action"],
) -> tuple[list[float | None], list[str]]:
    """Return how likely each action was, and what kind of number that is."""
    count = len(drawn)
    if policy.spec.action_selection == "greedy":
        return [1.0] * count, ["deterministic"] * count
    if probabilities is not None:
        parts = executed.reshape(count, -1)
        chosen = [part.gather(1, parts[:, i : i + 1])[:, 0] for i, part in enumerate(probabilities)]
        return torch.stack(chosen).prod(0).tolist(), ["probability"] * count
    rounded = _rounded_probabilities(policy, parameters, executed)
    if rounded is not None:
        return rounded.tolist(), ["probability"] * count
    if densities is None:
        return [None] * count, ["unknown"] * count
    # A clipped action stands for all that were clipped to it, so that its density means nothing.
    is_exact = torch.isclose(drawn, executed, rtol=1e-4, atol=1e-5)[:, _can_vary(policy)].all(1).tolist()
    known = zip(densities.double().exp().tolist(), is_exact, strict=True)
    return [value if exact else None for value, exact in known], ["density" if e else "unknown" for e in is_exact]


def _rounded_probabilities(
    policy: ActingPolicy, parameters: Float[Tensor, "R F"], executed: Shaped[Tensor, "R *action"]
) -> Float[Tensor, "R"] | None:
    """Return the probability of whole numbers: that of all draws which are rounded, or clipped, to them."""
    compute = getattr(policy.model.predict_action, "interval_probabilities", None)
    if compute is None or np.dtype(policy.spec.data.action_space.dtype).kind not in "iu":
        return None
    normalizer = policy.normalizer
    number = normalizer.to_env_actions(executed).round()
    assert normalizer.action_low is not None
    assert normalizer.action_high is not None
    low = torch.where(number <= normalizer.action_low, -torch.inf, normalizer.to_model_actions(number - 0.5))
    high = torch.where(number >= normalizer.action_high, torch.inf, normalizer.to_model_actions(number + 0.5))
    return compute(parameters, low, high)[:, _can_vary(policy)].prod(-1)


def _can_vary(policy: ActingPolicy) -> Bool[Tensor, "_"]:
    """Return for each dimension of an action whether its bounds differ; a single possible value has no density."""
    low = policy.normalizer.action_low
    high = policy.normalizer.action_high
    assert low is not None
    assert high is not None
    return high > low
