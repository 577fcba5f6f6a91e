"""Fitted Q evaluation on ICU-Sepsis against exact values: 10 policies, logs of 100,000 episodes of the clinicians' policy.

    python studies/judge_icu_sepsis.py [--episodes 100000] [--logs 3] [--output studies/results/judge_icu_sepsis.json]

The goal, written before the run: every estimate within 0.005 of the exact value.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rl_transformer.evaluation.offline.estimators import FITTED_Q, MARGINALIZED_DOUBLY_ROBUST
from rl_transformer.evaluation.offline.intervals import half_width
from rl_transformer.reproductions.finite_mdp import icu_sepsis
from rl_transformer.reproductions.judged_tables import JudgedLog

GOAL = 0.005


def policies(mdp, clinicians):
    """Ten policies between random, the clinicians' and the best one, by name."""
    actions = clinicians.shape[1]
    random = np.full_like(clinicians, 1 / actions)
    best = np.eye(actions)[mdp.best_action_values.argmax(1)]
    worst = np.eye(actions)[mdp.action_values(clinicians).argmin(1)]
    soft = np.exp((mdp.best_action_values - mdp.best_action_values.max(1, keepdims=True)) / 0.02)
    return {
        "random": random,
        "clinicians": clinicians,
        "best": best,
        "clinicians_and_best_0.1": 0.9 * clinicians + 0.1 * best,
        "clinicians_and_best_0.3": 0.7 * clinicians + 0.3 * best,
        "clinicians_and_best_0.6": 0.4 * clinicians + 0.6 * best,
        "clinicians_and_random_0.5": 0.5 * clinicians + 0.5 * random,
        "clinicians_and_worst_0.3": 0.7 * clinicians + 0.3 * worst,
        "best_likely": soft / soft.sum(1, keepdims=True),
        "most_frequent": np.eye(actions)[clinicians.argmax(1)],
    }


def main():
    """Measure, print and write every estimate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--logs", type=int, default=3)
    parser.add_argument("--output", default="studies/results/judge_icu_sepsis.json")
    arguments = parser.parse_args()
    mdp, clinicians = icu_sepsis()
    chosen = policies(mdp, clinicians)
    rows = []
    for number in range(arguments.logs):
        log, offsets = mdp.sample(clinicians, arguments.episodes, np.random.default_rng(1000 + number))
        judged = JudgedLog(log, offsets)
        for name, policy in chosen.items():
            began = time.monotonic()
            verdict, side = judged.judge(policy)
            exact = mdp.value(policy)
            robust = side.estimates[MARGINALIZED_DOUBLY_ROBUST]
            row = {
                "log": number,
                "policy": name,
                "exact": exact,
                "fitted_q_evaluation": side.estimates[FITTED_Q].value,
                "error": side.estimates[FITTED_Q].value - exact,
                "marginalized_doubly_robust": robust.value,
                "half_width": half_width(robust.influences, None, 0.9),
                "unsupported": side.support.unsupported,
                "effective_sample_size": side.support.effective_sample_size,
                "pareto_k": side.support.pareto_k,
                "verdict": verdict.word,
                "seconds": round(time.monotonic() - began, 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    largest = {name: max(abs(row["error"]) for row in rows if row["policy"] == name) for name in chosen}
    content = {
        "episodes": arguments.episodes,
        "goal": GOAL,
        "largest_error": largest,
        "within_goal": sum(error <= GOAL for error in largest.values()),
        "policies": len(largest),
        "rows": rows,
    }
    path = Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print({name: round(error, 5) for name, error in largest.items()})


if __name__ == "__main__":
    main()
