"""Judge a policy on logged episodes: from a dataset to a verdict, with everything that it rests on.

Shapes: N steps, E episodes, A joint actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_transformer.conditions.interface import Target
from rl_transformer.critics.features import StepFeatures, joint_actions, joint_masks, step_features
from rl_transformer.critics.networks import BehaviorModel, FitOptions, fit_action_values, fit_behavior
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline.estimators import (
    ASSUMPTIONS,
    BEHAVIOR,
    ValueEstimate,
    estimate_values,
    logged_value,
)
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.intervals import half_width
from rl_transformer.evaluation.offline.likelihood import action_likelihood, propensity_calibration
from rl_transformer.evaluation.offline.log_columns import entities_of, recorded_propensities
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.policy_actions import action_probabilities
from rl_transformer.evaluation.offline.support import clip_sensitivity, measure_support
from rl_transformer.evaluation.offline.verdict import REPORTED, Side, Verdict, decide
from rl_transformer.policy import Policy
from rl_transformer.policy.targets import usual_target
from rl_transformer.runtime import log
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Float64, Int
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

_FOLDS = 2
_FEWEST_EPISODES = 20


@dataclass(frozen=True)
class Candidate:
    """A policy and the targets that it is given."""

    policy: Policy
    target_return: float | None = None
    targets: Mapping[str, Target] = field(default_factory=dict)
    name: str = "policy"


@dataclass(frozen=True)
class LogEstimates:
    """A dataset with what is estimated of its behavior."""

    dataset: TrajectoryDataset
    features: StepFeatures
    actions: Int[np.ndarray, "N"]
    folds: Int[np.ndarray, "N"]
    entities: Int[np.ndarray, "E"] | None
    behavior: BehaviorModel
    log_behavior: Float64[np.ndarray, "N"]
    propensities: str
    """Where the propensities come from."""


def judge(
    candidate: Candidate,
    dataset: TrajectoryDataset,
    *,
    against: Candidate | None = None,
    gates: Sequence[Gate] = (),
    margin: float = 0.0,
    entity: Sequence[str] = (),
    propensity: str | None = None,
    options: FitOptions | None = None,
) -> JsonObject:
    """Return the verdict about a policy, with estimates, support and gates; JSON-ready.

    Args:
        candidate: The policy to judge.
        dataset: Logged episodes that it was not trained on.
        against: Another policy; None: the behavior that made the log.
        gates: What was checked of the data beforehand.
        margin: The smallest difference of value that matters, in units of return.
        entity: Columns that tell whom an episode is about; intervals are over them.
        propensity: Column with the probability of each logged action; None: the column propensity, if there is one.
        options: Sizes of the networks.

    Raises:
        RLTransformerError: Too few episodes, or data of a kind that cannot be judged.
    """
    candidates = [candidate] if against is None else [candidate, against]
    logged, judged = estimate_sides(candidates, dataset, entity=entity, propensity=propensity, options=options)
    steps, side, policy_probabilities = judged[0]
    behavior = logged_value(steps)
    other = judged[1][1] if against is not None else Side({BEHAVIOR: behavior}, None)
    verdict = decide(
        side, other, gates=list(gates), entities=logged.entities, margin=margin, num_episodes=steps.num_episodes
    )
    return {
        **verdict.to_dict(),
        "against": "behavior" if against is None else against.name,
        "policy": candidate.policy.content_hash,
        "estimates": _describe_all(side, logged.entities),
        "critic": _describe_critic(steps),
        "other_estimates": _describe_all(other, logged.entities),
        "behavior": _describe_behavior(behavior, steps, logged),
        "support": _describe_support(side, other, steps),
        "gates": [gate.to_dict() for gate in gates],
        "likelihood": action_likelihood(
            steps,
            logged.actions,
            logged.folds,
            policy_probabilities,
            logged.behavior.probabilities,
            joint_masks(dataset),
        ),
        "target": _target(candidate, steps, verdict, side.deciding),
    }


def estimate_sides(
    candidates: Sequence[Candidate],
    dataset: TrajectoryDataset,
    *,
    entity: Sequence[str] = (),
    propensity: str | None = None,
    options: FitOptions | None = None,
) -> tuple[LogEstimates, list[tuple[LoggedSteps, Side, Float64[np.ndarray, "N A"]]]]:
    """Return what is estimated of the log, and per policy the log as it sees it, its estimates and its probabilities.

    Raises:
        RLTransformerError: Too few episodes, or data of a kind that cannot be judged.
    """
    _check_size(dataset)
    options = options or FitOptions()
    history = max(each.policy.spec.context_length for each in candidates)
    recorded = recorded_propensities(dataset, propensity)
    logged = _read_log(dataset, history, entities_of(dataset, entity), recorded, options)
    # All policies are estimated on the same episodes with the same folds, so that chance common to them cancels.
    return logged, [_judge_side(each, logged, options) for each in candidates]


def _check_size(dataset: TrajectoryDataset) -> None:
    if dataset.num_trajectories < _FEWEST_EPISODES:
        raise RLTransformerError(
            f"holds {dataset.num_trajectories} episodes; nothing can be said from fewer than {_FEWEST_EPISODES}",
            where=dataset.location or "data",
            fix="log more episodes, or hold out a larger share with rlt convert --split",
        )


def _describe_all(side: Side, entities: Int[np.ndarray, "E"] | None) -> JsonObject:
    return {name: describe_estimate(estimate, entities) for name, estimate in side.estimates.items()}


def _describe_critic(steps: LoggedSteps) -> JsonObject:
    """Return by how much outcomes differ from what the critic expects of logged actions: 0 on average if it is right."""
    return {
        "mean_residual": float(steps.sum_by_episode(steps.corrections).mean()),
        "unit": "return per episode, under the behavior",
        "history": "the last steps that the policy sees, as far as they fit, with timestep and rewards so far",
    }


def _describe_support(side: Side, other: Side, steps: LoggedSteps) -> JsonObject:
    assert side.support is not None
    return {
        **side.support.to_dict(),
        "clip_sensitivity": clip_sensitivity(steps, side.deciding.name),
        "other": None if other.support is None else other.support.to_dict(),
    }


def _describe_behavior(behavior: ValueEstimate, steps: LoggedSteps, logged: LogEstimates) -> JsonObject:
    """Return what the behavior earned, and what is known of its propensities."""
    return {
        **describe_estimate(behavior, logged.entities),
        "episodes": steps.num_episodes,
        "steps": len(steps.rewards),
        "propensities": logged.propensities,
        "temperatures": logged.behavior.temperatures,
        "calibration": propensity_calibration(logged.behavior.probabilities, logged.actions),
    }


def _read_log(
    dataset: TrajectoryDataset,
    history: int,
    entities: Int[np.ndarray, "E"] | None,
    recorded: Float64[np.ndarray, "N"] | None,
    options: FitOptions,
) -> LogEstimates:
    """Fit the behavior, unless the log has its propensities; both are needed to see where support is thin."""
    features = step_features(dataset, history)
    # Without entities every episode is a unit of its own.
    units = np.arange(dataset.num_trajectories) if entities is None else np.unique(entities, return_inverse=True)[1]
    # Whole entities share a fold, so that nobody's episodes are on both sides.
    of_unit = generator(Stream.OFFLINE_JUDGING, options.seed).permutation(int(units.max()) + 1) % _FOLDS
    folds = np.repeat(of_unit[units], dataset.lengths)
    actions = joint_actions(dataset)
    log.info(f"behavior: fitting its actions on {dataset.num_steps:,} steps")
    behavior = fit_behavior(features, folds, joint_masks(dataset), options)
    source = "recorded in the log"
    if recorded is None:
        source = f"estimated by a network, cross-fitted over {_FOLDS} halves of the episodes and calibrated"
        # A network may round a probability to 0, and an action that was taken had one above.
        recorded = np.maximum(behavior.probabilities[np.arange(len(actions)), actions], 1e-12)
    return LogEstimates(dataset, features, actions, folds, entities, behavior, np.log(recorded), source)


def _judge_side(
    candidate: Candidate, logged: LogEstimates, options: FitOptions
) -> tuple[LoggedSteps, Side, Float64[np.ndarray, "N A"]]:
    """Return the log as one policy sees it, its estimates, and its action probabilities."""
    dataset = logged.dataset
    log.info(f"{candidate.name}: acting on {dataset.num_trajectories:,} logged episodes")
    probabilities = action_probabilities(candidate.policy, dataset, candidate.target_return, candidate.targets)
    # The return is that of the log: what would follow after recording stopped is not counted, for policy and behavior alike.
    is_last = np.zeros(dataset.num_steps, dtype=bool)
    is_last[dataset.offsets[1:] - 1] = True
    rewards = np.asarray(dataset.rewards, np.float64)
    log.info(f"{candidate.name}: fitting the value of its actions")
    values = fit_action_values(logged.features, logged.folds, probabilities, rewards, is_last, options)
    rows = np.arange(dataset.num_steps)
    # Minus infinity is meant: the weight of such an episode is 0 from there on.
    with np.errstate(divide="ignore"):  # a greedy policy never does most of what was logged
        log_policy = np.log(probabilities[rows, logged.actions])
    steps = LoggedSteps(
        np.asarray(dataset.offsets),
        rewards,
        log_policy,
        logged.log_behavior,
        values[rows, logged.actions],
        (probabilities * values).sum(1),
        entities=logged.entities,
    )
    estimates = estimate_values(steps)
    deciding = Side(estimates, None).deciding
    support = measure_support(steps, deciding, probabilities, logged.behavior.probabilities)
    return steps, Side(estimates, support), probabilities


def describe_estimate(estimate: ValueEstimate, entities: Int[np.ndarray, "E"] | None) -> JsonObject:
    """Return an estimate with its interval and what it assumes; JSON-ready."""
    half = half_width(estimate.influences, entities, REPORTED)
    return {
        "value": estimate.value,
        "interval": [estimate.value - half, estimate.value + half] if np.isfinite(half) else None,
        "confidence": REPORTED,
        "unit": "episodes" if entities is None else "entities",
        "assumptions": ASSUMPTIONS[estimate.name],
    }


def _target(candidate: Candidate, steps: LoggedSteps, verdict: Verdict, deciding: ValueEstimate) -> JsonObject:
    """Return the target beside what the log says about it: calibration of returns."""
    spec = candidate.policy.spec
    target = candidate.target_return
    if target is None:
        target = usual_target(spec)
    # Sums of logged rewards say nothing about a target in another unit.
    is_comparable = target is not None and spec.returns.note is None
    return {
        "target_return": target,
        "further_targets": dict(candidate.targets),
        "estimated_return": deciding.value if verdict.is_supported else None,
        "unit": spec.returns.note or "sum of the rewards of an episode",
        "share_of_episodes_at_or_above": float((steps.returns >= target).mean()) if is_comparable else None,
        "logged_quantiles": np.quantile(steps.returns, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]).tolist(),
    }
