"""Judge a policy on logged episodes: from a dataset to a verdict, with the evidence for it.

Shapes: N steps, E episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rl_transformer.critics.features import step_features
from rl_transformer.critics.networks import FitOptions
from rl_transformer.critics.possible_returns import POSSIBLE, possible_returns
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.offline.action_kinds import (
    Candidate,
    DiscreteActions,
    LoggedActions,
    SeenLog,
    VectorActions,
)
from rl_transformer.evaluation.offline.estimators import (
    ASSUMPTIONS,
    BEHAVIOR,
    FITTED_Q,
    ValueEstimate,
    estimate_values,
    logged_value,
)
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.intervals import half_width
from rl_transformer.evaluation.offline.log_columns import entities_of
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps, last_steps
from rl_transformer.evaluation.offline.support import clip_sensitivity, measure_support
from rl_transformer.evaluation.offline.verdict import REPORTED, Side, Verdict, decide
from rl_transformer.policy.targets import usual_target
from rl_transformer.runtime import log
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Int
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset

_FOLDS = 2
_FEWEST_EPISODES = 20


@dataclass(frozen=True)
class LogEstimates:
    """A dataset and the estimates of its behavior."""

    dataset: TrajectoryDataset
    actions: LoggedActions
    entities: Int[np.ndarray, "E"] | None

    @property
    def is_last(self) -> Bool[np.ndarray, "N"]:
        """Return True at the last step of each episode."""
        # The return is that of the log: what would follow after recording stopped is not counted, for policy and behavior alike.
        return last_steps(self.dataset.offsets)


def judge_candidate(
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
        against: Another policy; None: the behavior that produced the log.
        gates: Results of the checks of the data that were made beforehand.
        margin: The smallest difference in value that matters, in units of return.
        entity: Columns that identify the entity of an episode, such as a patient; intervals are over entities.
        propensity: Column with the probability, or density, of each logged action; None: the column propensity, if there is one.
        options: Sizes of the networks.

    Raises:
        RLTransformerError: Too few episodes, or data of a kind that cannot be judged.
    """
    candidates = [candidate] if against is None else [candidate, against]
    logged, judged = estimate_sides(candidates, dataset, entity=entity, propensity=propensity, options=options)
    gates = [*gates, *logged.actions.gates(candidates)]
    steps, side, seen = judged[0]
    behavior = logged_value(steps)
    other = judged[1][1] if against is not None else Side({BEHAVIOR: behavior}, None)
    verdict = decide(side, other, gates=gates, entities=logged.entities, margin=margin, num_episodes=steps.num_episodes)
    return {
        **verdict.to_dict(),
        "against": "behavior" if against is None else against.name,
        "policy": candidate.policy.content_hash,
        "estimates": _describe_all(side, logged.entities, steps),
        "possible_returns": _describe_possible(steps),
        "critic": _describe_critic(steps),
        "other_estimates": _describe_all(other, logged.entities, steps),
        "behavior": _describe_behavior(behavior, steps, logged),
        "support": _describe_support(side, other, steps),
        "gates": [gate.to_dict() for gate in gates],
        "likelihood": logged.actions.likelihood(steps, seen),
        "target": _target(candidate, steps, verdict, side.deciding),
    }


def estimate_sides(
    candidates: Sequence[Candidate],
    dataset: TrajectoryDataset,
    *,
    entity: Sequence[str] = (),
    propensity: str | None = None,
    options: FitOptions | None = None,
) -> tuple[LogEstimates, list[tuple[LoggedSteps, Side, SeenLog]]]:
    """Return the estimates of the log and, per policy, the log as it sees it, its estimates and what it would do.

    Raises:
        RLTransformerError: Too few episodes, or data of a kind that cannot be judged.
    """
    _check_size(dataset)
    options = options or FitOptions()
    history = max(each.policy.spec.context_length for each in candidates)
    logged = read_log(dataset, history, entities_of(dataset, entity), propensity, options)
    # All policies are estimated on the same episodes with the same folds, so that chance common to them cancels.
    return logged, [_judge_side(each, logged) for each in candidates]


def _check_size(dataset: TrajectoryDataset) -> None:
    if dataset.num_trajectories < _FEWEST_EPISODES:
        raise RLTransformerError(
            f"holds {dataset.num_trajectories} episodes; nothing can be said from fewer than {_FEWEST_EPISODES}",
            where=dataset.location or "data",
            fix="log more episodes, or hold out a larger share with rlt convert --split",
        )


def _describe_all(side: Side, entities: Int[np.ndarray, "E"] | None, steps: LoggedSteps) -> JsonObject:
    """Return every estimate; one that lies beyond what was ever earned, or could be, says so."""
    return {
        name: {**describe_estimate(estimate, entities), "doubt": _doubt(estimate.value, steps)}
        for name, estimate in side.estimates.items()
    }


def _doubt(value: float, steps: LoggedSteps) -> str | None:
    """Return why a value is hard to believe, None if it is not."""
    logged = (float(steps.returns.min()), float(steps.returns.max()))
    possible = _describe_possible(steps)
    for low, high, what in ((possible["low"], possible["high"], "possible"), (*logged, "in the log")):
        # Sums of rewards in another order differ in their last digits.
        slack = 1e-6 * (high - low)
        if not low - slack <= value <= high + slack:
            return f"outside the range of returns that are {what} ({low:.4g} to {high:.4g})"
    return None


def _describe_possible(steps: LoggedSteps) -> JsonObject:
    """Return the range of returns into which the critic was fitted."""
    possible = possible_returns(steps.rewards, steps.is_last)
    first = steps.offsets[0]
    return {"low": float(possible.low[first]), "high": float(possible.high[first]), "assumptions": POSSIBLE}


def _describe_critic(steps: LoggedSteps) -> JsonObject:
    """Return by how much outcomes differ from what the critic expects of logged actions: 0 on average if it is right."""
    return {
        "mean_residual": float(steps.sum_by_episode(steps.corrections).mean()),
        "unit": "return per episode, under the behavior",
        "history": "the last steps that the policy sees, as many as fit, with the timestep and the rewards so far",
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
        "propensities": logged.actions.propensities,
        "temperatures": logged.actions.temperatures,
        "calibration": logged.actions.calibration(),
    }


def read_log(
    dataset: TrajectoryDataset,
    history: int,
    entities: Int[np.ndarray, "E"] | None,
    propensity: str | None,
    options: FitOptions,
) -> LogEstimates:
    """Fit the behavior, unless the log has its propensities; both are needed to see where support is thin."""
    features = step_features(dataset, history)
    # Without entities every episode is a unit of its own.
    units = np.arange(dataset.num_trajectories) if entities is None else np.unique(entities, return_inverse=True)[1]
    # Whole entities share a fold, so that nobody's episodes are on both sides.
    of_unit = generator(Stream.OFFLINE_JUDGING, options.seed).permutation(int(units.max()) + 1) % _FOLDS
    folds = np.repeat(of_unit[units], dataset.lengths)
    log.info(f"behavior: fitting a model of its actions on {dataset.num_steps:,} steps")
    space = dataset.spec.action_space
    if space.is_continuous and np.dtype(space.dtype).kind != "f":
        raise RLTransformerError(
            f"action vectors of whole numbers ({space.dtype}) cannot be judged: they have neither density nor classes",
            where=dataset.location or "data",
            fix="evaluate the policy live with rlt evaluate, or log the actions as classes",
        )
    kind = VectorActions if space.is_continuous else DiscreteActions
    return LogEstimates(dataset, kind(dataset, features, folds, options, propensity), entities)


def _judge_side(candidate: Candidate, logged: LogEstimates) -> tuple[LoggedSteps, Side, SeenLog]:
    """Return the log as one policy sees it, its estimates, and what it would do."""
    count = logged.dataset.num_trajectories
    log.info(f"{candidate.name}: computing its actions in {count:,} logged episodes and fitting its values")
    seen = logged.actions.see(candidate, logged.is_last)
    return *estimate_side(seen, logged), seen


def estimate_side(seen: SeenLog, logged: LogEstimates) -> tuple[LoggedSteps, Side]:
    """Return the log as a policy sees it, and its estimates and support."""
    dataset = logged.dataset
    steps = LoggedSteps(
        np.asarray(dataset.offsets),
        np.asarray(dataset.rewards, np.float64),
        seen.log_policy,
        logged.actions.log_behavior,
        seen.action_values,
        seen.state_values,
        entities=logged.entities,
        folds=logged.actions.folds[np.asarray(dataset.offsets[:-1])],
    )
    estimates = estimate_values(steps)
    if not seen.has_weights:
        estimates = {FITTED_Q: estimates[FITTED_Q]}
    deciding = Side(estimates, None).deciding
    return steps, Side(estimates, measure_support(steps, deciding, seen.missing))


def describe_estimate(estimate: ValueEstimate, entities: Int[np.ndarray, "E"] | None) -> JsonObject:
    """Return an estimate with its interval and what it assumes; JSON-ready."""
    half = half_width(estimate.influences, entities, REPORTED, estimate.folds)
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
    # Every episode then had the target that its own first observation advises; the one shown is that of all starts.
    follows_start = target is None and spec.advice is not None and spec.advice.depends_on_start
    if target is None:
        target = usual_target(spec)
    # Sums of logged rewards say nothing about a target in another unit.
    is_comparable = target is not None and spec.returns.note is None
    return {
        "target_return": target,
        "depends_on_start": follows_start,
        "further_targets": dict(candidate.targets),
        "estimated_return": deciding.value if verdict.is_supported else None,
        "unit": spec.returns.note or "sum of the rewards of an episode",
        "share_of_episodes_at_or_above": float((steps.returns >= target).mean()) if is_comparable else None,
        "logged_quantiles": np.quantile(steps.returns, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]).tolist(),
    }
