"""Draw learning curves of several runs: the mean over training seeds, with its 95 % interval as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import mean_interval
from rl_transformer.runtime.types import JsonObject

_MOST_POINTS = 200
"""Points of a curve. The loss of single updates varies too much to be read; beyond so many, updates are averaged."""


def learning_curves(rows: Mapping[str, Sequence[JsonObject]]) -> dict[str, JsonObject]:
    """Return the loss and the evaluation returns of one run, or of runs that differ in their training seed.

    Args:
        rows: Rows of metrics.jsonl by the name of the seed.

    Returns:
        By the field's name (``loss``, ``return_at_X``): ``steps``, the updates that all seeds have reached; ``mean``,
        the mean over the seeds at each; ``interval``, its 95 % interval, or None where there is none; and ``averaged``,
        the number of rows that each point is the mean of (the last point may be of fewer).
    """
    names = {name for one in rows.values() for row in one for name in row if name.startswith("return_at_")}
    curves = {}
    for name in ("loss", *sorted(names)):
        values = [{int(row["step"]): float(row[name]) for row in one if name in row} for one in rows.values()]
        # A run that is behind the others would change the mean where it ends.
        steps = sorted(set.intersection(*map(set, values)))
        if steps:
            curves[name] = _curve(steps, np.array([[one[step] for step in steps] for one in values]))
    return curves


def _curve(steps: Sequence[int], values: np.ndarray) -> JsonObject:
    """Return one curve from values with one row per seed and one column per step."""
    size = -(-len(steps) // _MOST_POINTS)
    starts = range(0, len(steps), size)
    ends = [min(start + size, len(steps)) for start in starts]
    points = np.array([values[:, start:end].mean(axis=1) for start, end in zip(starts, ends, strict=True)])
    intervals = [mean_interval(point.tolist()) for point in points]
    return {
        "steps": [steps[end - 1] for end in ends],
        "mean": points.mean(axis=1).tolist(),
        "interval": [None if found is None else [found.low, found.high] for found in intervals],
        "averaged": size,
    }


def plot_learning_curves(runs: Sequence[tuple[str, Mapping[str, JsonObject]]], path: Path) -> None:
    """Draw one panel per field, with one line per run, into a PNG.

    Args:
        runs: Names, each with its curves from `learning_curves`.
        path: PNG to write.

    Raises:
        RLTransformerError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    fields = sorted({name for _, curves in runs for name in curves}, key=lambda name: (name != "loss", name))
    drawn = Figure(figsize=(7, 3 * len(fields)), layout="constrained")
    for axes, field in zip(np.atleast_1d(drawn.subplots(len(fields), 1)), fields, strict=True):
        averaged = 1
        for index, (name, curves) in enumerate(runs):
            if field not in curves:
                continue
            curve = curves[field]
            averaged = max(averaged, curve["averaged"])
            axes.plot(curve["steps"], curve["mean"], color=f"C{index}", label=name, marker="." * (field != "loss"))
            # NaN leaves a gap where the seeds determine no interval.
            band = np.array([(np.nan, np.nan) if one is None else one for one in curve["interval"]])
            axes.fill_between(curve["steps"], band[:, 0], band[:, 1], color=f"C{index}", alpha=0.2, linewidth=0)
        axes.set_ylabel(field if averaged == 1 else f"{field}, mean of {averaged} rows")
        axes.set_xlabel("updates (line: mean over seeds; band: its 95 % interval)")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    plots.save(drawn, path)
