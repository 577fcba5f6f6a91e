"""Does a target return have an effect? Target against achieved return on control data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import over_seeds, rank_correlation
from rl_transformer.reproductions.experiment import JSON, Cell, Check, Measured, Row, Score, Setup, Summary
from rl_transformer.reproductions.task_data import DATA_NOTE, RECIPE_NOTE, TaskData, TaskDataExperiment, target_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ReturnControl(TaskDataExperiment):
    """Do smaller and larger targets have an effect? (Chen et al. 2021, section 5.2)."""

    name = "return-control"
    title = "Return control"
    question = (
        "One policy per seed gets target returns from near the data's smallest to 1.5 times its largest. Does what it achieves "
        "follow the target, and what happens beyond the data?"
    )
    rules: ClassVar = {
        "slope": "inside the data's range, the slope of achieved over target return is 1 ± 0.1 (with the whole 95 % interval over seeds)",
        "precise": "inside the data's range, achieved and target return are 10 % of the range apart or less, on average over targets "
        "(with the whole interval)",
    }
    seeds = 10
    enough_seeds = 10
    arms = ("dt",)
    differs = (
        DATA_NOTE,
        RECIPE_NOTE,
        "The rules of the first run were Spearman's rho of 0.9 or more (found: 0.993), which holds for any "
        "rising curve, and no more than 1.1 times the data's largest return for a target of 1.5 times it, which could not fail. A second "
        "one by the present rules, on another processor and at earlier code, found a slope of 0.79 [0.70, 0.89]. This is its repetition.",
    )
    unknown = (
        "The paper shows this as figures, without numbers to compare with.",
        "A data set with few episodes of middling returns says little about how a policy could achieve them.",
    )
    inside: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Targets inside the data's range, as shares of the way from the smallest to the largest return."""
    beyond: ClassVar = (1.25, 1.5)
    """Targets beyond the data, in largest returns."""

    def prepare(self, setup: Setup) -> JSON:
        """Open the data; its returns must differ, and the largest be positive, for targets beyond it to mean something."""
        identity = super().prepare(setup)
        returns = TaskData.from_setup(setup).dataset().episode_returns
        if not returns.min() < returns.max() or returns.max() <= 0:
            raise RLTransformerError(
                f"the returns of the data range from {returns.min():g} to {returns.max():g}",
                where="return-control",
                fix="use data with different returns, the largest above 0",
            )
        return identity

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return the mean return for every target."""
        data = TaskData.from_setup(setup)
        returns = data.dataset().episode_returns
        low = float(returns.min())
        high = float(returns.max())
        targets = [low + share * (high - low) for share in self.inside] + [share * high for share in self.beyond]
        return data.score("dt", cell["seed"], targets=targets)

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare target and achieved returns."""
        count = len(self.inside)
        inside_share = self.inside[-1] - self.inside[0]  # of the data's range, which the targets do not quite span
        slopes = []
        distances = []
        correlations = []
        for row in measured:
            targets = np.array(row["asked"][:count])
            achieved = np.array(row["means"][:count])
            slopes.append(float(np.polyfit(targets, achieved, 1)[0]))
            distances.append(float(np.abs(achieved - targets).mean() * inside_share / np.ptp(targets)))
            correlations.append(rank_correlation(targets.tolist(), achieved.tolist()) or 0.0)
        slope = over_seeds(slopes)
        distance = over_seeds(distances)
        rows = [
            Row("slope of achieved over target return, inside the data's range", slope, unit="slope"),
            Row("mean distance of achieved from target return, as a share of the range", distance),
            Row("Spearman's rho inside the data's range", over_seeds(correlations), unit="rho"),
        ]
        for i, target in enumerate(measured[0]["asked"]):
            what = f"target return {target:.4g}{' (beyond the data)' if i >= count else ''}"
            rows.append(Row(what, over_seeds([row["means"][i] for row in measured]), unit="return"))
        checks = {
            "slope": _lies_in(slope, 0.9, 1.1),
            "precise": _lies_in(distance, 0.0, 0.1),
        }
        return Summary(rows, checks, {"largest_in_data": target_of(measured)})

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw achieved against target return, one line per seed, the data's largest return marked."""
        for row in measured:
            axes.plot(row["asked"], row["means"], color=plots.PALE, marker="o", markersize=3)
        targets = measured[0]["asked"]
        means = np.mean([row["means"] for row in measured], axis=0)
        axes.plot(targets, means, color=plots.ACCENT, label="mean over seeds")
        ends = [0, max(targets)]
        axes.plot(ends, ends, color=plots.INK, alpha=0.4, linewidth=1, label="achieved = target")
        axes.axvline(target_of(measured), color=plots.INK, linestyle=":", label="largest return in the data")
        axes.set_xlabel("target return")
        axes.set_ylabel("achieved return, mean of the episodes of a seed")
        axes.legend(frameon=False)


def _lies_in(score: Score, low: float, high: float) -> Check:
    """Return whether a whole interval lies in a range; False if it lies outside, None if it reaches across a bound."""
    if score["interval"] is None:
        return Check(None, f"{score['mean']:.3f}, one seed")
    lowest, highest = score["interval"]
    # A distance cannot be below 0, although its interval can reach there.
    is_inside = highest <= high and (lowest >= low or low == 0)
    is_outside = highest < low or lowest > high
    holds = True if is_inside else False if is_outside else None
    return Check(holds, f"{score['mean']:.3f} [{lowest:.3f}, {highest:.3f}]")
