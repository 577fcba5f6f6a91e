"""Draw how many times faster than the baseline every measured job is, and what was aimed at.

    python studies/ratios.py

Reads the dated results of `rlt bench` and of d3rlpy_step.py; the goals were set before anything was measured.
"""

import json
from pathlib import Path

from rl_transformer.evaluation import plots

RESULTS = Path(__file__).parent / "results"
JOBS = (
    # what it is, the file's name, what its row says, goal
    ("training step, float32", "train-hopper", {"dtype": "float32"}, 1.7),
    ("the same, ours bfloat16", "train-hopper", {"dtype": "bfloat16", "baseline_dtype": "float32"}, 3.2),
    ("the same, both bfloat16", "train-hopper", {"dtype": "bfloat16", "baseline_dtype": "bfloat16"}, None),
    ("step of Atari's size, float32", "train-larger", {"size": "atari", "dtype": "float32"}, None),
    ("step of GPT-2 small's, float32", "train-larger", {"size": "gpt2-small", "dtype": "float32"}, None),
    ("step, float32, against d3rlpy", "train-d3rlpy", {"dtype": "float32"}, None),
    ("a batch of windows", "data", {"what": "batch of 64 windows, in memory"}, 40),
    ("one action, forward", "act", {"what": "our model's forward, batch 1, against transformers' forward"}, 2),
    (
        "64 actions, streaming / windows",
        "act",
        {"what": "streaming attention against windows, both ours, 64 sessions"},
        5,
    ),
    ("evaluation", "evaluate-hopper", {"what": "exact windows"}, 4),
    ("evaluation, streaming attention", "evaluate-hopper", {"what": "streaming attention"}, 10),
)


def ratio(name, says):
    """Return the ratio of the newest result that says so."""
    newest = sorted(RESULTS.glob(f"{name}-2cpu-*.json"))[-1]
    rows = [row for row in json.loads(newest.read_text()) if all(row[key] == value for key, value in says.items())]
    return rows[0]["ratio"]


def main():
    drawn, axes = plots.figure(7.5, 4.2)
    for place, (label, name, says, goal) in enumerate(JOBS):
        found = ratio(name, says)
        axes.barh(place, found, color=plots.ACCENT if goal and found < goal else plots.INK)
        axes.text(found, place, f" {found:.3g}", va="center", fontsize=8)
        if goal:
            axes.plot([goal, goal], [place - 0.4, place + 0.4], color=plots.PALE, linewidth=3)
        print(f"{label}: {found} (goal: {goal})")
    axes.set_yticks(range(len(JOBS)), [job[0] for job in JOBS], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.set_xticks([1, 2, 4, 10, 20, 40], ["1", "2", "4", "10", "20", "40"], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("times faster than the baseline (light line: the goal; red: missed)")
    plots.save(drawn, RESULTS / "ratios.png")


if __name__ == "__main__":
    main()
