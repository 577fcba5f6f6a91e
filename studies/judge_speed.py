"""How long `rlt judge` takes, and where: 10,000 episodes of 20 steps, a policy of the preset fast.

    python studies/judge_speed.py [--episodes 10000] [--output FILE]

The goal, written before the run: 10 minutes on two cores. Wall time depends on what else runs, so processor time is beside it:
with two threads the wall time of an idle machine lies between half of it and all of it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rl_transformer.cli.main import main as rlt
from rl_transformer.evaluation.offline import action_kinds
from rl_transformer.evaluation.offline.judge import judge_candidate
from rl_transformer.policy import load_policy
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.spaces import Space

GOAL_SECONDS = 600
PARTS = {
    "acting on the log": "action_probabilities",
    "fitting the behavior": "fit_behavior",
    "fitting the critic": "fit_action_values",
}
STEPS, NUMBERS, ACTIONS = 20, 8, 6


def log_of(episodes, seed):
    """Episodes of random actions; one of the actions earns 1, and an observation says which."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(episodes):
        observations = random.normal(size=(STEPS, NUMBERS)).astype(np.float32)
        actions = random.integers(0, ACTIONS, STEPS)
        rewards = (actions == (observations[:, 0] > 0)).astype(float)
        found.append({"observations": observations, "actions": actions, "rewards": rewards, "terminated": True})
    return TrajectoryDataset.from_episodes(found, action_space=Space.discrete(ACTIONS))


def timed(name, parts):
    """Make a function of the judge note its seconds: wall and processor time."""
    function = getattr(action_kinds, PARTS[name])

    def call(*arguments, **options):
        began = time.monotonic(), time.process_time()
        result = function(*arguments, **options)
        parts[name] = [round(time.monotonic() - began[0], 1), round(time.process_time() - began[1], 1)]
        return result

    setattr(action_kinds, PARTS[name], call)


def main():
    """Measure, print and write the times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log_of(500, seed=1).save(Path(folder) / "training")
        # How good the policy is does not matter for the time that it takes.
        steps = ["--training.train_steps", "20", "--training.warmup_steps", "2"]
        rlt(["train", "fast", "--data", f"rlt:{folder}/training", "--output", f"{folder}/run", *steps])
        policy = load_policy(f"{folder}/run")
        parts = {}
        for name in PARTS:
            timed(name, parts)
        data = log_of(arguments.episodes, seed=2)
        began = time.monotonic(), time.process_time()
        judge_candidate(action_kinds.Candidate(policy), data)
        wall, processor = time.monotonic() - began[0], time.process_time() - began[1]
    content = {
        "episodes": arguments.episodes,
        "steps_per_episode": STEPS,
        "context_length": policy.spec.context_length,
        "threads": torch.get_num_threads(),
        "goal_seconds": GOAL_SECONDS,
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "parts_wall_and_processor_seconds": parts,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(content, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
