"""Score a policy in a live environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.report import EvaluationReport, TargetReport
from rl_transformer.evaluation.rollout import run_episodes
from rl_transformer.evaluation.statistics import D4RL_REFERENCES
from rl_transformer.machine import versions
from rl_transformer.policy import Policy


def evaluate(
    policy: Policy,
    *,
    env_id: str,
    target_returns: Sequence[float] = (),
    num_episodes: int = 20,
    seed: int = 1_000_000,
    reference: str | None = None,
    record: int = 0,
    check: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Run ``num_episodes`` for each target, all in one batch, and report every one of them.

    Args:
        policy: From `load_policy`.
        env_id: Gymnasium id of the environment to act in.
        target_returns: Returns to ask for; the policy's suggestions if empty. Behavior cloning
            takes none.
        num_episodes: Episodes a target.
        seed: Seed of each target's first episode; later ones count up. The default lies far from
            the seeds that data is usually collected with.
        reference: hopper, halfcheetah or walker2d, to add D4RL's normalized score. Name it only if
            the environment's returns are comparable with D4RL's.
        record: Keep the frames of the first so many episodes of the first target, in ``recordings``.
        check: Called at every step; may raise to stop.

    Raises:
        RLTransformerError: An environment that cannot be made or does not fit the policy, or a
            target for a policy that takes none.
    """
    if num_episodes < 1:
        raise RLTransformerError(f"{num_episodes} episodes", where="num_episodes", fix="ask for 1 or more")
    if seed < 0:
        raise RLTransformerError(f"{seed} is negative", where="seed", fix="use 0 or more")
    if reference is not None and reference not in D4RL_REFERENCES:
        raise RLTransformerError(
            f"no reference scores for {reference!r}",
            where="reference",
            fix=f"choose one of {', '.join(D4RL_REFERENCES)}",
        )
    targets: list[float | None] = [
        *(target_returns if len(target_returns) else policy.spec.suggested_targets if policy.spec.takes_target else ())
    ] or [None]
    for target in targets:
        policy.target_or_default(target)
    asked = [target for target in targets for _ in range(num_episodes)]
    seeds = [seed + i for _ in targets for i in range(num_episodes)]
    episodes = run_episodes(policy, env_id, asked, seeds, record=record, check=check)
    parts = [episodes[i * num_episodes : (i + 1) * num_episodes] for i in range(len(targets))]
    reports = [
        TargetReport.of(target, [e.episode_return for e in part], [e.episode_length for e in part], reference)
        for target, part in zip(targets, parts, strict=True)
    ]
    recordings = [episode.frames for episode in episodes[:record]]
    return EvaluationReport(env_id, policy.content_hash, num_episodes, seed, reports, versions(), recordings)
