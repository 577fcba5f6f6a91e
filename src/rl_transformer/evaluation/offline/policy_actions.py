"""What a policy would do at every step of logged episodes, if it had lived them as a session.

Shapes: N steps, E episodes, A joint actions or numbers of an action vector, K drawn actions, R episodes that go on,
F parameters of the action head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rl_transformer.conditions.interface import Target, value_after
from rl_transformer.critics.features import num_joint_actions
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy import Policy
from rl_transformer.policy.gatherer import check_spaces
from rl_transformer.policy.predictor import Predictor
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int
from rl_transformer.trajectories import TrajectoryDataset

_EPISODES_AT_ONCE = 512
_Record: TypeAlias = Callable[[Int[np.ndarray, "R"], Float[Tensor, "R F"]], None]


def action_probabilities(
    policy: Policy,
    dataset: TrajectoryDataset,
    target_return: float | None,
    targets: Mapping[str, Target] | None = None,
) -> Float64[np.ndarray, "N A"]:
    """Return the probability of each action at every logged step, given everything that was logged before it.

    The policy is given the target at an episode's first step. Afterwards the returns-to-go are those of a session: the
    target minus the rewards that were logged, not the returns that the episodes turned out to have. A greedy policy has
    probability 1 for its best action.

    Raises:
        RLTransformerError: The data has other spaces than the policy, or lacks a column that a condition needs.
    """
    check_spaces(policy.spec, dataset)
    probabilities = np.zeros((dataset.num_steps, num_joint_actions(dataset)))
    masks = dataset.action_masks

    def record(rows: Int[np.ndarray, "R"], parameters: Float[Tensor, "R F"]) -> None:
        allowed = None if masks is None else torch.from_numpy(np.asarray(masks[rows])).to(policy.device)
        probabilities[rows] = _joint_probabilities(policy, parameters, allowed)

    _follow_all(policy, dataset, target_return, targets, record)
    return probabilities


def has_density(policy: Policy) -> bool:
    """Return whether a policy over action vectors draws them from a density that its head can tell."""
    return policy.spec.action_selection == "sample" and _log_densities(policy) is not None


def _log_densities(policy: Policy) -> Callable[..., Tensor] | None:
    return getattr(policy.model.predict_action, "log_densities", None)


def action_draws(
    policy: Policy,
    dataset: TrajectoryDataset,
    target_return: float | None,
    targets: Mapping[str, Target] | None,
    uniforms: Float[np.ndarray, "N K A"],
) -> tuple[Float64[np.ndarray, "N K A"], Float64[np.ndarray, "N"]]:
    """Return drawn actions at every logged step, and the log density of each logged action, both in the data's units.

    The history is that of the log, as in `action_probabilities`. A policy without a density acts in one way only: all draws
    are its greedy action, and the log density of any other is minus infinity.

    Args:
        policy: The judged policy.
        dataset: Logged episodes with action vectors.
        target_return: What the policy is given at the first step.
        targets: Further targets.
        uniforms: Random numbers in [0, 1), one per number of each draw.

    Raises:
        RLTransformerError: The data has other spaces than the policy, or lacks a column that a condition needs.
    """
    check_spaces(policy.spec, dataset)
    head = policy.model.predict_action
    draws = np.zeros(uniforms.shape)
    log_densities = np.full(dataset.num_steps, -np.inf)
    scale = policy.normalizer.action_scale
    assert scale is not None  # action vectors have one
    # A density per unit of the data: where the data's units are larger than the model's, it is smaller.
    log_scale = float(scale.double().log().sum())
    log_density_of = _log_densities(policy) if has_density(policy) else None
    drawn = torch.from_numpy(np.asarray(uniforms, np.float32)).to(policy.device)

    def record(rows: Int[np.ndarray, "R"], parameters: Float[Tensor, "R F"]) -> None:
        if log_density_of is not None:
            logged = torch.from_numpy(np.asarray(dataset.actions[rows])).to(policy.device)
            inside = policy.normalizer.to_model_actions(logged)
            log_densities[rows] = log_density_of(parameters, inside).double().sum(-1).cpu().numpy() - log_scale
            each = parameters[:, None].expand(-1, drawn.shape[1], -1)
            actions = head.sample(each, drawn[rows])
        else:
            actions = head.greedy(parameters)[:, None].expand(-1, drawn.shape[1], -1)
        draws[rows] = policy.normalizer.to_env_actions(actions).double().cpu().numpy()

    _follow_all(policy, dataset, target_return, targets, record)
    return draws, log_densities


def _follow_all(
    policy: Policy,
    dataset: TrajectoryDataset,
    target_return: float | None,
    targets: Mapping[str, Target] | None,
    record: _Record,
) -> None:
    """Let a policy act on all episodes; ``record`` gets the head's parameters at some rows."""
    # Longest first, so that the episodes of a part end at about the same time.
    order = np.argsort(-dataset.lengths, kind="stable")
    # In parts, because every live episode holds a window or a cache.
    for first in range(0, len(order), _EPISODES_AT_ONCE):
        _follow(policy, dataset, order[first : first + _EPISODES_AT_ONCE], target_return, targets, record)


@torch.inference_mode()
def _follow(
    policy: Policy,
    dataset: TrajectoryDataset,
    episodes: Int[np.ndarray, "R"],
    target_return: float | None,
    targets: Mapping[str, Target] | None,
    record: _Record,
) -> None:
    """Let a policy act on some episodes, which act together."""
    spec = policy.spec
    predictor = Predictor(policy, len(episodes))
    predictor.forget(np.arange(len(episodes)))
    start = policy.initial_conditions(target_return, targets)
    values = {name: np.repeat(value[None], len(episodes), axis=0) for name, value in start.items()}
    if target_return is None and spec.advice is not None and spec.advice.depends_on_start:
        first = np.asarray(dataset.observations[dataset.offsets[episodes]])
        limits = spec.target_ranges["return_to_go"]
        values["return_to_go"][:, 0] = spec.advice.advised(policy.normalized(first), limits)
    for step in range(int(dataset.lengths[episodes].max())):
        # Episodes that have ended leave; the others keep their slots, in which their histories are.
        slots = np.flatnonzero(dataset.lengths[episodes] > step)
        rows = dataset.offsets[episodes[slots]] + step
        steps = np.full(len(slots), step)
        now = {name: value[slots] for name, value in values.items()}
        predictor.write_step(slots, steps, np.asarray(dataset.observations[rows]), now)
        parameters, _ = predictor.parameters(slots, steps)
        record(rows, parameters)
        # What was logged, not what the policy would have done: its history is that of the log, as in `session.observe(action=...)`.
        actions = torch.from_numpy(np.asarray(dataset.actions[rows])).to(policy.device)
        predictor.write_actions(slots, steps, policy.normalizer.to_model_actions(actions))
        for condition in spec.conditions:
            outcome = _outcomes(dataset, condition.outcome, rows)
            values[condition.name][slots] = value_after(condition, now[condition.name], outcome)


def _joint_probabilities(
    policy: Policy, parameters: Float[Tensor, "R F"], allowed: Bool[Tensor, "R M"] | None
) -> Float64[np.ndarray, "R A"]:
    """Return the probability of each joint action; the last part of a multi-discrete action counts fastest."""
    head = policy.model.predict_action
    sizes = policy.spec.model.action_parts or (policy.spec.data.action_space.n,)
    if policy.spec.action_selection == "greedy":
        # All probability on one action: only logs in which the behavior sometimes acts so can say anything.
        best = head.greedy(parameters, allowed).reshape(len(parameters), -1)
        parts = [torch.nn.functional.one_hot(best[:, i], size).double() for i, size in enumerate(sizes)]
    else:
        compute = getattr(head, "probabilities", None)
        if compute is None:
            raise RLTransformerError(
                f"the head {policy.spec.model.action_head!r} gives no probabilities of its actions",
                where="policy",
                fix="judge a policy with action_selection greedy, or give the head a method probabilities",
            )
        parts = [part.double() for part in compute(parameters, allowed)]
    joint = parts[0]
    for part in parts[1:]:
        joint = (joint[:, :, None] * part[:, None, :]).flatten(1)
    return joint.cpu().numpy()


def _outcomes(dataset: TrajectoryDataset, name: str, rows: Int[np.ndarray, "R"]) -> Float64[np.ndarray, "R"]:
    """Return the logged outcome after which a condition changes."""
    if name == "reward":
        return np.asarray(dataset.rewards[rows], np.float64)
    if name not in dataset.columns:
        raise RLTransformerError(
            f"has no column {name!r}, which a condition of the policy depends on",
            where=dataset.location or "data",
            fix="record it with every step",
        )
    return np.asarray(dataset.columns[name][rows], np.float64)
