"""How often the plain mean of the logged returns misses its value in the logs of `rlt reproduce judge-environments`.

    python studies/judge_log_luck.py [--output FILE]

Every verdict of a log is against that mean, so that chance in it moves them all. Nothing is estimated for it: its 90 % interval is
Student's t, and what it misses in these logs is luck. Hopper is left out, whose values are known too little for that.
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


def main():
    """Draw the logs again, count, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    experiment = JudgeEnvironments()
    rows = []
    for cell in experiment.cells(Setup(quick=False, seeds=experiment.seeds, output=RESULTS)):
        if cell["task"] == "hopper":
            continue
        task = TASKS[cell["task"]]
        # As in `JudgeEnvironments.measure`.
        drawn_from = [cell["seed"], cell["num_episodes"], len(cell["behavior"]), len(cell["task"]), _LOGS]
        behavior = behaviors_of(task)[cell["behavior"]]
        data = task.record(behavior, cell["num_episodes"], np.random.default_rng(drawn_from))
        true = json.loads((RESULTS / f"values/{cell['task']}.json").read_text())["behaviors"][cell["behavior"]][0]
        returns = data.episode_returns
        errors = float((returns.mean() - true) / stats.sem(returns))
        rows.append({**cell, "standard_errors": round(errors, 3)})
    limit = stats.norm.ppf(0.95)
    held = sum(abs(row["standard_errors"]) <= limit for row in rows)
    exact = stats.binomtest(held, len(rows)).proportion_ci(0.95)
    content = {"logs": len(rows), "held": int(held), "interval": [exact.low, exact.high], "rows": rows}
    print(f"the 90 % interval of the logged mean holds its value in {held} of {len(rows)} logs")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
