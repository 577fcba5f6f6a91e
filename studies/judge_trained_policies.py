"""Verdicts of `rlt judge` about Decision Transformers and clones that were trained from logs, beside what they earn in their environment.

    python studies/judge_trained_policies.py --output FILE

`rlt reproduce judge-environments` judges policies that act by rules, because their values are known; here the policies are those
that the library trains, with three targets and from two sizes of data, and their values come from 20,000 live episodes of the T-maze.
"""

import argparse
import json
import tempfile
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
LIVE = 20_000
SEED = 0x0DEC
CORRIDOR = 10
TASK = TASKS["t-maze"]
ARMS = {
    "dt": {},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc": {"model.conditions": []},
}


def trained(arm, data, folder):
    """Return a policy that was trained on a log; it samples its actions, so that weights exist."""
    config = key_to_door()
    options = {
        **ARMS[arm],
        "windows.context_length": CORRIDOR + 1,
        "windows.return_balance": 0.0,
        "policy.action_selection": "sample",
        "training.threads": 1,
    }
    for option, value in options.items():
        config.set(option, value)
    config.output = str(folder)
    return load_policy(train(config, dataset=data))


def candidates_of(size, data, folder):
    """Return the policies that are learned from a log of this size, each with the targets that it is given."""
    most = float(data.episode_returns.max())
    found = []
    for arm in ARMS:
        policy = trained(arm, data, folder / f"{arm}-{size}")
        targets = (0.5 * most, most, 1.5 * most) if policy.spec.takes_target else (None,)
        found += [Candidate(policy, target, name=f"{arm} from {size:,}, target {target}") for target in targets]
    return found


def live(candidate):
    """Return the mean return of live episodes, and its standard error."""
    targets = [] if candidate.target_return is None else [candidate.target_return]
    report = evaluate(candidate.policy, env_id=t_maze_id(CORRIDOR), target_returns=targets, num_episodes=LIVE)
    returns = report.targets[0].episode_returns
    return float(np.mean(returns)), float(np.std(returns, ddof=1) / np.sqrt(LIVE))


def judged(folder):
    """Return one row per policy and kind of propensities."""
    behavior = behaviors_of(TASK)["usual"]

    def draw(episodes, number):
        return TASK.record(behavior, episodes, np.random.default_rng([SEED, number, len("t-maze")]))

    candidates = [each for size in LEARNED_FROM for each in candidates_of(size, draw(size, size), folder)]
    log = draw(JUDGED_ON, 0)
    # Fresh episodes of the behavior: its value in the judged log is what chance made it there.
    own = [float(returns.mean()) for returns in (draw(LIVE, number).episode_returns for number in range(1, 6))]
    own_value, own_error = float(np.mean(own)), float(np.std(own, ddof=1) / np.sqrt(len(own)))
    lived = [live(each) for each in candidates]
    logs = {
        kind: read_log(log, CORRIDOR + 1, None, column, OPTIONS)
        for kind, column in (("estimated", None), ("recorded", DRAWN_WITH))
    }
    rows = []
    for candidate, (value, error) in zip(candidates, lived, strict=True):
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
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = judged(Path(folder))
    content = {"learned_from": LEARNED_FROM, "judged_on": JUDGED_ON, "live_episodes": LIVE, "rows": rows}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
