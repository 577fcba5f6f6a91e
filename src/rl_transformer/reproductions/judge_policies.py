"""What `rlt reproduce judge` judges: logs, 40 policies of known value, and what each estimate says about them.

Shapes: S states, A actions; policies are (S, A).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from rl_transformer.critics.tabular import TabularModel
from rl_transformer.evaluation.offline.estimators import BEHAVIOR, FITTED_Q, WEIGHTED, ValueEstimate, logged_value
from rl_transformer.evaluation.offline.gates import Gate
from rl_transformer.evaluation.offline.intervals import half_width
from rl_transformer.evaluation.offline.logged_steps import LoggedSteps
from rl_transformer.evaluation.offline.verdict import DECIDING, REPORTED, Side, decide
from rl_transformer.reproductions.experiment import JSON
from rl_transformer.reproductions.finite_mdp import FiniteMDP, icu_sepsis
from rl_transformer.reproductions.judged_tables import JudgedLog

ALONE = {"fqe": FITTED_Q, "wis": WEIGHTED}
"""Estimates that are also tried without any condition on support, by their names in cells."""
SHARES = {
    "best": tuple(i / 12 for i in range(1, 13)),
    "worst": tuple(i / 12 for i in range(1, 13)),
    "random": (0.25, 0.5, 0.75, 1.0),
}
LEARNED_FROM = (300, 1_000, 3_000, 10_000, 30_000, 100_000)


def make_behaviors(mdp: FiniteMDP, clinicians: np.ndarray) -> dict[str, np.ndarray]:
    """Return the policies that make logs."""
    best = np.eye(clinicians.shape[1])[mdp.best_action_values.argmax(1)]
    random = np.full_like(clinicians, 1 / clinicians.shape[1])
    return {
        "clinicians": clinicians,
        "halfway": 0.5 * clinicians + 0.5 * best,
        "exploring": 0.7 * clinicians + 0.3 * random,
    }


def _learned(mdp: FiniteMDP, clinicians: np.ndarray) -> dict[int, np.ndarray]:
    """Return the policies that look best in logs of the clinicians, by their sizes: good, and not so good, ones."""
    found = {}
    for size in LEARNED_FROM:
        log, _ = mdp.sample(clinicians, size, np.random.default_rng([size, 0x1C0]))
        policy = clinicians
        model = TabularModel(log)
        # Policy iteration; a few rounds are enough, and the result need not be the best of anything.
        for _ in range(5):
            policy = np.eye(clinicians.shape[1])[model.evaluate(policy)[0].argmax(1)]
        found[size] = policy
    return found


@cache
def make_policies() -> dict[str, tuple[np.ndarray, float]]:
    """Return 40 policies with their exact values: the clinicians' mixed with better, worse and random ones; learned ones."""
    mdp, clinicians = icu_sepsis()
    actions = clinicians.shape[1]
    # From near the behavior to far from it, in both directions.
    ends = {
        "best": np.eye(actions)[mdp.best_action_values.argmax(1)],
        "worst": np.eye(actions)[mdp.action_values(clinicians).argmin(1)],
        "random": np.full_like(clinicians, 1 / actions),
    }
    policies = {
        f"{name}-{share:.3g}": (1 - share) * clinicians + share * other
        for name, other in ends.items()
        for share in SHARES[name]
    }
    for size, policy in _learned(mdp, clinicians).items():
        policies[f"learned-{size}"] = policy
        policies[f"learned-{size}-half"] = 0.5 * clinicians + 0.5 * policy
    return {name: (policy, mdp.value(policy)) for name, policy in policies.items()}


def judge_table(judged: JudgedLog, policy: np.ndarray, exact: float) -> JSON:
    """Return the verdict about one policy, what the simple estimates say, and ``exact``, its difference to the behavior."""
    steps, side = judged.side(policy)
    return describe_verdict(steps, side, exact)


def describe_verdict(
    steps: LoggedSteps, side: Side, exact: float, unit: float = 1.0, gates: Sequence[Gate] = ()
) -> JSON:
    """Return the verdict about a policy against the behavior, what the simple estimates say, and what is true.

    Args:
        steps: The log as the policy sees it.
        side: Its estimates and support.
        exact: Its true difference to the behavior.
        unit: By what differences are divided.
        gates: What was checked of the data.
    """
    logged = logged_value(steps)
    verdict = decide(side, Side({BEHAVIOR: logged}, None), gates=list(gates), num_episodes=steps.num_episodes)
    assert side.support is not None
    return {
        "exact": exact / unit,
        "verdict": verdict.word,
        "supported": verdict.is_supported,
        "difference": verdict.difference / unit,
        "interval": [end / unit for end in verdict.interval],
        "effective_sample_size": side.support.effective_sample_size,
        "pareto_k": side.support.pareto_k,
        "unsupported": side.support.unsupported,
        # The same difference of the same episodes as the judge's, for a fair comparison.
        **{short: _alone(side.estimates[name], logged, exact, unit) for short, name in ALONE.items()},
    }


def _alone(estimate: ValueEstimate, logged: ValueEstimate, exact: float, unit: float) -> JSON:
    """Return what an estimate would say without any condition on support."""
    difference = estimate.value - logged.value
    influences = estimate.influences - logged.influences
    says_better = difference - half_width(influences, None, DECIDING) > 0
    return {
        "difference": difference / unit,
        "covers": abs(difference - exact) <= half_width(influences, None, REPORTED),
        "wrong": says_better and exact <= 0,
    }
