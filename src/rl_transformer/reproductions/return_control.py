"""Does a target return have an effect? Target against achieved return on control data."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import over_seeds, rank_correlation
from rl_transformer.reproductions.experiment import JSON, Cell, Check, Measured, Row, Setup, Summary
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
        "follows": "Spearman's rho of target and achieved returns, inside the data's range, is 0.9 or more in the mean over seeds",
        "flat": "with a target of 1.5 times the data's largest return, it earns no more than 1.1 times the largest",
    }
    arms = ("dt",)
    differs = (DATA_NOTE, RECIPE_NOTE)
    unknown = ("The paper shows this as figures, without numbers to compare with.",)
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
        """Correlate target and achieved returns."""
        count = len(self.inside)
        largest = target_of(measured)
        rho = over_seeds([rank_correlation(row["asked"][:count], row["means"][:count]) or 0.0 for row in measured])
        rows = [Row("Spearman's rho inside the data's range", rho)]
        for i, target in enumerate(measured[0]["asked"]):
            what = f"target return {target:.4g}{' (beyond the data)' if i >= count else ''}"
            rows.append(Row(what, over_seeds([row["means"][i] for row in measured])))
        top = rows[-1].score["mean"]
        checks = {
            "follows": Check(rho["mean"] >= 0.9, f"rho {rho['mean']:.3f}"),
            "flat": Check(top <= 1.1 * largest, f"{top:.4g}, the largest is {largest:.4g}"),
        }
        return Summary(rows, checks, {"largest_in_data": largest})

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
