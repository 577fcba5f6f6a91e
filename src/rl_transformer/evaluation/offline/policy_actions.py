"""What a policy would do at every step of logged episodes, if it had lived them as a session.

Shapes: N steps, E episodes, A joint actions, R episodes that go on.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    # Longest first, so that the episodes of a part end at about the same time.
    order = np.argsort(-dataset.lengths, kind="stable")
    for first in range(0, len(order), _EPISODES_AT_ONCE):
        _follow(policy, dataset, order[first : first + _EPISODES_AT_ONCE], target_return, targets, probabilities)
    return probabilities


@torch.inference_mode()
def _follow(
    policy: Policy,
    dataset: TrajectoryDataset,
    episodes: Int[np.ndarray, "R"],
    target_return: float | None,
    targets: Mapping[str, Target] | None,
    probabilities: Float64[np.ndarray, "N A"],
) -> None:
    """Write the probabilities at the steps of some episodes, which act together."""
    spec = policy.spec
    predictor = Predictor(policy, len(episodes))
    predictor.forget(np.arange(len(episodes)))
    start = policy.initial_conditions(target_return, targets)
    values = {name: np.repeat(value[None], len(episodes), axis=0) for name, value in start.items()}
    for step in range(int(dataset.lengths[episodes].max())):
        slots = np.flatnonzero(dataset.lengths[episodes] > step)
        rows = dataset.offsets[episodes[slots]] + step
        steps = np.full(len(slots), step)
        now = {name: value[slots] for name, value in values.items()}
        predictor.write_step(slots, steps, np.asarray(dataset.observations[rows]), now)
        parameters, _ = predictor.parameters(slots, steps)
        masks = dataset.action_masks
        allowed = None if masks is None else torch.from_numpy(np.asarray(masks[rows])).to(policy.device)
        probabilities[rows] = _joint_probabilities(policy, parameters, allowed)
        actions = torch.from_numpy(np.asarray(dataset.actions[rows])).to(policy.device)
        predictor.write_actions(slots, steps, actions)
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
            f"has no column {name!r}, which a condition of the policy follows",
            where=dataset.location or "data",
            fix="record it with every step",
        )
    return np.asarray(dataset.columns[name][rows], np.float64)
