"""Draw how many times faster than the baseline every measured job is, and the goal that was set for it.

    python studies/ratios.py

Reads the dated results of `rlt bench` and of d3rlpy_step.py; the goals were set before anything was measured.
"""

import json
from pathlib import Path
from typing import NamedTuple

from rl_transformer.evaluation import plots

RESULTS = Path(__file__).parent / "results"


class Job(NamedTuple):
    """One bar of the figure."""

    label: str
    file: str
    """Beginning of the name of the results."""
    fields: dict
    """Which row of them."""
    goal: float | None = None


JOBS = (
    Job("training step, float32", "train-hopper", {"dtype": "float32"}, 1.7),
    Job("the same, ours bfloat16", "train-hopper", {"dtype": "bfloat16", "baseline_dtype": "float32"}, 3.2),
    Job("the same, both bfloat16", "train-hopper", {"dtype": "bfloat16", "baseline_dtype": "bfloat16"}),
    Job("step of Atari's size, float32", "train-larger", {"size": "atari", "dtype": "float32"}),
    Job("step of GPT-2 small's, float32", "train-larger", {"size": "gpt2-small", "dtype": "float32"}),
    Job("step, float32, against d3rlpy", "train-d3rlpy", {"dtype": "float32"}),
    Job("a batch of windows", "data", {"what": "batch of 64 windows, in memory"}, 40),
    Job("one action, forward", "act", {"what": "our model's forward, batch 1, against transformers' forward"}, 2),
    Job(
        "64 actions, streaming / windows",
        "act",
        {"what": "streaming attention against windows, both ours, 64 sessions"},
        5,
    ),
    Job("evaluation", "evaluate-hopper", {"what": "exact windows"}, 4),
    Job("evaluation, streaming attention", "evaluate-hopper", {"what": "streaming attention"}, 10),
)


def measured_ratio(job):
    """Return the ratio of a job in its newest results."""
    newest = sorted(RESULTS.glob(f"{job.file}-2cpu-*.json"))[-1]
    rows = json.loads(newest.read_text())
    return next(row["ratio"] for row in rows if all(row[key] == value for key, value in job.fields.items()))


def main():
    drawn, axes = plots.figure(7.5, 4.2)
    for place, job in enumerate(JOBS):
        ratio = measured_ratio(job)
        axes.barh(place, ratio, color=plots.ACCENT if job.goal and ratio < job.goal else plots.INK)
        axes.text(ratio, place, f" {ratio:.3g}", va="center", fontsize=8)
        if job.goal:
            axes.plot([job.goal, job.goal], [place - 0.4, place + 0.4], color=plots.PALE, linewidth=3)
        print(f"{job.label}: {ratio} (goal: {job.goal})")
    axes.set_yticks(range(len(JOBS)), [job.label for job in JOBS], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=1)
    axes.set_xticks([1, 2, 4, 10, 20, 40], ["1", "2", "4", "10", "20", "40"], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("times faster than the baseline (light line: the goal; red: missed)")
    plots.save(drawn, RESULTS / "ratios.png")


if __name__ == "__main__":
    main()
