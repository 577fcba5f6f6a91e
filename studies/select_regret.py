"""How much a pick of `rlt select` loses where the truth is known, beside simpler picks: from the cells of a trial of the judge.

    python studies/select_regret.py [--trial reproductions/results/judge] [--output studies/results/select_regret.json]

Each cell is one log with estimates of 40 policies of known value. A pick's regret is how much less it earns than the best of
them. `rlt select` picks the policy with the highest deciding estimate among those with support, and the first by fitted Q
evaluation if none has support; its expected regret is not in the cells. The training returns of these policies are not known,
because they are mixed from tables and not trained; a pick at random stands for knowing nothing.
"""

import argparse
import json
from pathlib import Path

import numpy as np

PICKS = ("rlt select", "fitted Q evaluation", "weighted importance sampling", "random")


def pick(rows, by):
    """Return the true difference of the policy that is picked; of a random pick, the mean."""
    if by == "random":
        return float(np.mean([row["exact"] for row in rows]))
    if by == "rlt select":
        supported = [row for row in rows if row["supported"]]
        if supported:
            return max(supported, key=lambda row: row["difference"])["exact"]
        return pick(rows, "fitted Q evaluation")
    name = {"fitted Q evaluation": "fqe", "weighted importance sampling": "wis"}[by]
    return max(rows, key=lambda row: row[name]["difference"])["exact"]


def main():
    """Compute, print and write the regrets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trial", type=Path, default=Path("reproductions/results/judge"))
    parser.add_argument("--output", type=Path, default=Path("studies/results/select_regret.json"))
    arguments = parser.parse_args()
    cells = [json.loads(path.read_text()) for path in sorted((arguments.trial / "cells").glob("*.json"))]
    found = []
    for size in sorted({cell["num_episodes"] for cell in cells}):
        chosen = [list(cell["judged"].values()) for cell in cells if cell["num_episodes"] == size]
        best = [max(row["exact"] for row in rows) for rows in chosen]
        for by in PICKS:
            regrets = np.array([most - pick(rows, by) for rows, most in zip(chosen, best, strict=True)])
            found.append(
                {
                    "episodes": size,
                    "pick": by,
                    "logs": len(regrets),
                    "mean_regret": float(regrets.mean()),
                    "largest_regret": float(regrets.max()),
                    "standard_error": float(regrets.std(ddof=1) / np.sqrt(len(regrets))),
                    "logs_with_support": sum(any(row["supported"] for row in rows) for rows in chosen),
                }
            )
            print(json.dumps(found[-1]))
    arguments.output.write_text(json.dumps({"trial": arguments.trial.as_posix(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
