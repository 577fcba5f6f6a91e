"""Verdicts of `rlt judge` about Decision Transformers and clones that were trained from logs, beside what they earn in their environment.

    python studies/judge_trained_policies.py t-maze|cartpole --output FILE

`rlt reproduce judge-environments` judges policies that act by rules, because their values are known. The policies here are those
that the library trains, with three targets and from two sizes of data. Their values come from rollouts in the environment.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_transformer import evaluate, load_policy, train
from rl_transformer.config.presets import key_to_door
from rl_transformer.critics.networks import FitOptions
from rl_transformer.environments import t_maze_id
from rl_transformer.evaluation.offline.action_kinds import Candidate
from rl_transformer.evaluation.offline.estimators import BEHAVIOR, logged_value
from rl_transformer.evaluation.offline.intervals import standard_error
from rl_transformer.evaluation.offline.judge import estimate_side, read_log
from rl_transformer.evaluation.offline.verdict import Side, decide
from rl_transformer.reproductions.judged_play import DRAWN_WITH
from rl_transformer.reproductions.judged_tasks import TASKS, behaviors_of

# As in `rlt reproduce judge-environments`.
OPTIONS = FitOptions(hidden_size=64, critic_updates=2000, target_rate=0.1)
LEARNED_FROM = (300, 3_000)
JUDGED_ON = 10_000
SEED = 0x0DEC
ARMS = {
    "dt": {},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc": {"model.conditions": []},
}


@dataclass(frozen=True)
class Studied:
    """What differs between the tasks."""

    name: str
    env_id: str
    env_kwargs: dict
    context_length: int
    targets: tuple[float, ...]
    """In shares of the best logged return."""
    rollouts: int
    """Episodes that measure a policy's value: fewer where episodes are long."""


STUDIED = {
    # The last step's reward depends on the cue of the first one.
    "t-maze": Studied("t-maze", t_maze_id(10), {}, 11, (0.5, 1.0, 1.5), 20_000),
    # The logs of `rlt reproduce judge-environments` are cut off after 100 steps, too.
    "cartpole": Studied("cartpole", "CartPole-v1", {"max_episode_steps": 100}, 5, (0.3, 0.6, 1.0), 4_000),
}


def trained(studied, arm, data, folder):
    """Return a policy that was trained on a log; it samples its actions, so that weights exist."""
    config = key_to_door()
    options = {
        **ARMS[arm],
        "windows.context_length": studied.context_length,
        "windows.start": "first" if data.lengths.max() <= studied.context_length else "any",
        "windows.return_balance": 0.0,
        "policy.action_selection": "sample",
        "training.threads": 1,
    }
    for option, value in options.items():
        config.set(option, value)
    config.output = str(folder)
    return load_policy(train(config, dataset=data))


def candidates_of(studied, size, data, folder):
    """Return the policies that are learned from a log of this size, each with the targets that it is given."""
    most = float(data.episode_returns.max())
    found = []
    for arm in ARMS:
        policy = trained(studied, arm, data, folder / f"{arm}-{size}")
        targets = [share * most for share in studied.targets] if policy.spec.takes_target else [None]
        found += [Candidate(policy, target, name=f"{arm} from {size:,}, target {target}") for target in targets]
    return found


def roll_out(studied, candidate):
    """Return the mean return of rollouts, and its standard error."""
    targets = [] if candidate.target_return is None else [candidate.target_return]
    report = evaluate(
        candidate.policy,
        env_id=studied.env_id,
        env_kwargs=studied.env_kwargs,
        target_returns=targets,
        num_episodes=studied.rollouts,
    )
    returns = report.targets[0].episode_returns
    return float(np.mean(returns)), float(np.std(returns, ddof=1) / np.sqrt(len(returns)))


def judged(studied, folder):
    """Return one row per policy and kind of propensities."""
    task = TASKS[studied.name]
    behavior = behaviors_of(task)["usual"]

    def draw(episodes, number):
        return task.record(behavior, episodes, np.random.default_rng([SEED, number, len(studied.name)]))

    candidates = [each for size in LEARNED_FROM for each in candidates_of(studied, size, draw(size, size), folder)]
    log = draw(JUDGED_ON, 0)
    # Fresh episodes of the behavior: its value in the judged log is what chance made it there.
    own = np.concatenate([draw(20_000, number).episode_returns for number in range(1, 6)])
    own_value, own_error = float(own.mean()), float(own.std(ddof=1) / np.sqrt(len(own)))
    values = [roll_out(studied, each) for each in candidates]
    logs = {
        kind: read_log(log, studied.context_length, None, column, OPTIONS)
        for kind, column in (("estimated", None), ("recorded", DRAWN_WITH))
    }
    rows = []
    for candidate, (value, error) in zip(candidates, values, strict=True):
        # Critics and rare actions do not depend on where propensities come from.
        fitted = logs["estimated"]
        seen = fitted.actions.see(candidate, fitted.is_last)
        for kind, logged in logs.items():
            steps, side = estimate_side(seen, logged)
            other = Side({BEHAVIOR: logged_value(steps)}, None)
            verdict = decide(side, other, gates=logged.actions.gates([candidate]), num_episodes=steps.num_episodes)
            rows.append(
                {
                    "policy": candidate.name,
                    "propensities": kind,
                    "verdict": verdict.word,
                    "supported": verdict.is_supported,
                    "difference": verdict.difference,
                    "standard_error": standard_error(side.deciding.influences - other.deciding.influences, None)[0],
                    "by_fitted_q_evaluation": verdict.second_difference,
                    "live_difference": value - own_value,
                    "live_standard_error": float(np.hypot(error, own_error)),
                    "effective_sample_size": side.support.effective_sample_size,
                    "reasons": verdict.reasons,
                }
            )
            print(json.dumps(rows[-1])[:300], flush=True)
    return rows


def main():
    """Measure, print and write one row per verdict."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=list(STUDIED))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    studied = STUDIED[arguments.task]
    with tempfile.TemporaryDirectory() as folder:
        rows = judged(studied, Path(folder))
    sizes = {"learned_from": LEARNED_FROM, "judged_on": JUDGED_ON, "rollouts": studied.rollouts}
    content = {"task": studied.name, **sizes, "rows": rows}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
