"""Score a policy in a live environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rl_transformer.conditions.interface import Target
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.episodes import run_episodes
from rl_transformer.evaluation.report import EvaluationReport, TargetReport
from rl_transformer.evaluation.statistics import D4RL_REFERENCES
from rl_transformer.policy import Policy
from rl_transformer.runtime.machine import versions


def evaluate(
    policy: Policy,
    *,
    env_id: str,
    target_returns: Sequence[float] = (),
    targets: Mapping[str, Target] | None = None,
    num_episodes: int = 20,
    seed: int = 1_000_000,
    reference: str | None = None,
    record: int = 0,
    check: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Run ``num_episodes`` episodes per target return, all in one batch, and report every one of them.

    Args:
        policy: From `load_policy`.
        env_id: Gymnasium id of the environment to act in.
        target_returns: Target returns in the environment's units; the policy's suggestions if empty. Behavior cloning
            takes none.
        targets: Targets of further conditions, the same in all episodes, for example ``{"cost_to_go": 25.0}``.
            The environment reports their outcomes in ``info``, for example ``info["cost"]``.
        num_episodes: Episodes per target return.
        seed: Seed of the first episode of each target; later episodes count up. The default is far from the seeds that
            data is usually collected with, so a policy is not scored on initial states that it was trained on.
        reference: hopper, halfcheetah or walker2d: add D4RL's normalized score, for returns comparable with D4RL's.
        record: Store the frames of the first N episodes of the first target in ``recordings``.
        check: Called at every step; may raise to stop.

    Raises:
        RLTransformerError: The environment does not fit the policy or cannot be made, or a target does not fit it.
    """
    if num_episodes < 1:
        raise RLTransformerError(f"is {num_episodes}", where="num_episodes", fix="set it to 1 or more")
    if seed < 0:
        raise RLTransformerError(f"{seed} is negative", where="seed", fix="use 0 or more")
    if reference is not None and reference not in D4RL_REFERENCES:
        raise RLTransformerError(
            f"no reference scores for {reference!r}",
            where="reference",
            fix=f"choose one of {', '.join(D4RL_REFERENCES)}",
        )
    chosen = _target_returns(policy, target_returns)
    for target in chosen:
        policy.initial_conditions(target, targets)  # raises for a wrong target before any episode is run
    # Every target sees the same seeds. Differences between targets are then not due to easier initial states.
    episodes = run_episodes(
        policy,
        env_id,
        [target for target in chosen for _ in range(num_episodes)],
        [seed + i for _ in chosen for i in range(num_episodes)],
        targets=targets,
        record=record,
        check=check,
    )
    reports = []
    for i, target in enumerate(chosen):
        part = episodes[i * num_episodes : (i + 1) * num_episodes]
        reports.append(TargetReport.from_episodes(target, part, reference, targets or {}))
    recordings = [episode.frames for episode in episodes[:record]]
    return EvaluationReport(env_id, policy.content_hash, num_episodes, seed, reports, versions(), recordings)


def _target_returns(policy: Policy, given: Sequence[float]) -> list[float | None]:
    """Return the given targets, else the policy's suggestions, else [None] for a policy that takes none."""
    if len(given):
        return list(given)
    if policy.spec.takes_target and policy.spec.suggested_targets:
        return list(policy.spec.suggested_targets)
    return [None]
