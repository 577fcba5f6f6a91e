"""Summarize evaluations of policies that differ in their training seed only; the unit is the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.evaluate import chosen_targets
from rl_transformer.evaluation.report import EvaluationReport, TargetReport
from rl_transformer.evaluation.statistics import interquartile_mean, mean_interval, over_units, standard_error
from rl_transformer.policy import Policy


def common_targets(policies: Mapping[int, Policy], given: Sequence[float]) -> list[float]:
    """Return the target returns that all policies are evaluated with: the given ones, or those that all suggest.

    Args:
        policies: Policies by training seed.
        given: Target returns of the user; may be empty.

    Raises:
        RLTransformerError: None is given, and the policies suggest different ones.
    """
    chosen = {seed: chosen_targets(policy, given) for seed, policy in policies.items()}
    first = next(iter(chosen.values()))
    for seed, targets in chosen.items():
        if targets != first:
            example = " ".join(f"{target:g}" for target in first if target is not None)
            raise RLTransformerError(
                f"the policies suggest different target returns: {first}, and {targets} for seed {seed}",
                where="--target-return",
                fix=f"pass the same ones for all, for example --target-return {example}",
            )
    return [target for target in first if target is not None]


def combine_seeds(reports: Mapping[int, EvaluationReport]) -> EvaluationReport:
    """Return one report of evaluations that differ in the policy only; means and intervals are over training seeds.

    Args:
        reports: Evaluations by training seed, with the same environment, targets, episodes and evaluation seeds.
    """
    seeds = list(reports)
    each = list(reports.values())
    targets = [_combine_targets([report.targets[i] for report in each]) for i in range(len(each[0].targets))]
    hashes = [str(report.policy) for report in each]
    return replace(each[0], policy=hashes, targets=targets, training_seeds=seeds)


def _combine_targets(parts: Sequence[TargetReport]) -> TargetReport:
    """Return the summary of one target over the training seeds."""
    # Episodes of one policy are not independent of each other: they share the luck of its training. Pooling them would
    # give an interval that is too narrow, so each seed counts as one number, the mean of its episodes.
    means = [part.mean for part in parts]
    interval = mean_interval(means)
    mean = float(np.mean(means))
    # The normalized score is linear in the return, so the mean of the seeds' scores is the score of their mean.
    normalized = [part.normalized_score for part in parts if part.normalized_score is not None]
    names = parts[0].episode_outcomes
    return replace(
        parts[0],
        episode_returns=[value for part in parts for value in part.episode_returns],
        episode_lengths=[length for part in parts for length in part.episode_lengths],
        episode_outcomes={name: [v for part in parts for v in part.episode_outcomes[name]] for name in names},
        mean=mean,
        standard_error=standard_error(means),
        interval=None if interval is None else [interval.low, interval.high],
        interval_over="training_seeds",
        interval_method=None if interval is None else interval.method,
        interquartile_mean=interquartile_mean(means),
        normalized_score=float(np.mean(normalized)) if normalized else None,
        truncated_by_limit=sum(part.truncated_by_limit for part in parts),
        seed_means=means,
        episode_achieved=[value for part in parts for value in part.episode_achieved],
        achieved=over_units([part.comparable[0] for part in parts], "training_seeds") if parts[0].achieved else None,
    )
