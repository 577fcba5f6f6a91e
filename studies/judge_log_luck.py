"""How often the plain mean of the logged returns misses its value in the logs of `rlt reproduce judge-environments`.

    python studies/judge_log_luck.py [--output FILE]

Every verdict of a log is against that mean, so that chance in it moves them all. Nothing is estimated for it: its 90 % interval is
Student's t, and what it misses in these logs is luck. Hopper is left out, whose values are known too little for that. Because it
misses most in the T-maze with 10,000 episodes, 120 further logs are drawn there, from random numbers that the trial does not use: if
logs were drawn wrongly, these would miss as often.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.judge_environments import _LOGS, JudgeEnvironments
from rl_transformer.reproductions.judged_tasks import TASKS, behaviors_of

RESULTS = Path(__file__).parents[1] / "reproductions/results/judge-environments"
FURTHER = 60
FURTHER_LOGS = 0x0A11
LIMIT = stats.norm.ppf(0.95)


def error_of(cell, drawn_from):
    """Return by how many standard errors the mean return of a log misses the value of its behavior."""
    task = TASKS[cell["task"]]
    behavior = behaviors_of(task)[cell["behavior"]]
    returns = task.record(behavior, cell["num_episodes"], np.random.default_rng(drawn_from)).episode_returns
    true = json.loads((RESULTS / f"values/{cell['task']}.json").read_text())["behaviors"][cell["behavior"]][0]
    return float((returns.mean() - true) / stats.sem(returns))


def of_the_trial():
    """Return one row per log of the trial."""
    experiment = JudgeEnvironments()
    cells = experiment.cells(Setup(quick=False, seeds=experiment.seeds, output=RESULTS))
    rows = []
    for cell in (cell for cell in cells if cell["task"] != "hopper"):
        # As in `JudgeEnvironments.measure`.
        drawn_from = [cell["seed"], cell["num_episodes"], len(cell["behavior"]), len(cell["task"]), _LOGS]
        rows.append({**cell, "standard_errors": round(error_of(cell, drawn_from), 3)})
    return rows


def further():
    """Return one row per further log of the T-maze."""
    rows = []
    for behavior in ("usual", "exploring"):
        for seed in range(FURTHER):
            cell = {"task": "t-maze", "behavior": behavior, "num_episodes": 10_000, "seed": seed}
            errors = error_of(cell, [seed, len(behavior), FURTHER_LOGS])
            rows.append({**cell, "standard_errors": round(errors, 3)})
    return rows


def counted(rows):
    """Return how many rows hold, with the exact 95 % interval of the share."""
    held = sum(abs(row["standard_errors"]) <= LIMIT for row in rows)
    exact = stats.binomtest(held, len(rows)).proportion_ci(0.95)
    return {"logs": len(rows), "held": int(held), "interval": [exact.low, exact.high], "rows": rows}


def main():
    """Draw the logs again, count, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    content = {**counted(of_the_trial()), "further": counted(further())}
    for what, found in (("the trial", content), ("the T-maze, further ones", content["further"])):
        print(
            f"logs of {what}: the 90 % interval of the logged mean holds its value in {found['held']} of {found['logs']}"
        )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
