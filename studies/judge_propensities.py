"""How far the judge's estimated propensities are from the true ones, on logs that `rlt reproduce judge-environments` does not use.

    python studies/judge_propensities.py [--output FILE]

The divergence is that of the estimate from the behavior (Kullback-Leibler), added up over an episode. In a long episode the weights of a
policy near the behavior average about 1 plus twice that.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from rl_transformer.critics.features import action_units
from rl_transformer.critics.networks import FitOptions
from rl_transformer.evaluation.offline.action_kinds import DiscreteActions
from rl_transformer.evaluation.offline.judge import read_log
from rl_transformer.reproductions.judged_tasks import TASKS, behaviors_of

EPISODES, SEED = 10_000, 100


def divergence(actions, data, parameters):
    """Return the divergence at each step."""
    behavior = actions._behavior
    if isinstance(actions, DiscreteActions):
        return (parameters * np.log(parameters / np.maximum(behavior.probabilities, 1e-12))).sum(1)
    center, spread = action_units(data)
    means, spreads = np.split(parameters, 2, axis=1)
    means, spreads = (means - center) / spread, spreads / spread
    apart = (spreads**2 + (means - behavior.means) ** 2) / (2 * behavior.spreads**2)
    return (np.log(behavior.spreads / spreads) + apart - 0.5).sum(1)


def main():
    """Measure, print and write one row per task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, task in TASKS.items():
        act = behaviors_of(task)["usual"]
        data = task.record(act, EPISODES, np.random.default_rng([SEED, EPISODES, len(name)]))
        observations = np.asarray(data.observations)
        first = np.repeat(observations[data.offsets[:-1]], data.lengths, axis=0)
        began = time.process_time()
        logged = read_log(data, task.history, None, None, FitOptions())
        steps = divergence(logged.actions, data, act(observations, first))
        rows[name] = {
            "divergence_per_episode": round(float(steps.sum() / EPISODES), 4),
            "steps_per_episode": round(data.num_steps / EPISODES, 1),
            "processor_seconds": round(time.process_time() - began, 1),
        }
        print(name, rows[name], flush=True)
    content = {"episodes": EPISODES, "seed": SEED, "behavior": "usual", "tasks": rows}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
