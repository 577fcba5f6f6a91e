"""Does asking for a return do anything? Asked against achieved on control data."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import over_seeds, rank_correlation
from rl_transformer.reproductions.task_data import DATA_NOTE, RECIPE_NOTE, Control, ControlExperiment, target_of
from rl_transformer.reproductions.reproduction import Cell, Measured, Row, Setup, Summary


class ReturnControl(ControlExperiment):
    """Does asking for less or more do anything? (Chen et al. 2021, section 5.2)."""

    name = "return-control"
    title = "Return control"
    question = (
        "One policy a seed is asked for returns from near the data's smallest to 1.5 times its largest. Does what it achieves "
        "follow what is asked, and what happens beyond the data?"
    )
    rules: ClassVar = {
        "follows": "Spearman's rho of asked and achieved, inside the data's range, is 0.9 or more in the mean over seeds",
        "flat": "asked for 1.5 times the data's largest return, it earns no more than 1.1 times the largest",
    }
    arms = ("dt",)
    differs = (DATA_NOTE, RECIPE_NOTE)
    unknown = ("The paper shows this as figures, without numbers to compare with.",)
    inside: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    beyond: ClassVar = (1.25, 1.5)

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Open the data; its returns must differ, and the largest be positive, for targets beyond it to mean something."""
        found = super().prepare(setup)
        returns = Control.of(setup).dataset().episode_returns
        if not returns.min() < returns.max() or returns.max() <= 0:
            raise RLTransformerError(
                f"the returns of the data go from {returns.min():g} to {returns.max():g}",
                where="return-control",
                fix="use data of several returns, the largest above 0",
            )
        return found

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The mean return at every target, as a share of the way from the smallest to the largest return."""
        control = Control.of(setup)
        returns = control.dataset().episode_returns
        low, high = float(returns.min()), float(returns.max())
        asked = [low + share * (high - low) for share in self.inside] + [share * high for share in self.beyond]
        return control.score("dt", cell["seed"], targets=asked)

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Correlate asked and achieved."""
        count, largest = len(self.inside), target_of(measured)
        rho = over_seeds([rank_correlation(row["asked"][:count], row["means"][:count]) or 0.0 for row in measured])
        rows = [Row("Spearman's rho inside the data's range", rho)]
        rows += [
            Row(
                f"asked for {asked:.4g}{' (beyond the data)' if i >= count else ''}",
                over_seeds([r["means"][i] for r in measured]),
            )
            for i, asked in enumerate(measured[0]["asked"])
        ]
        top = rows[-1].score["mean"]
        checks: dict[str, tuple[bool | None, str]] = {
            "follows": (rho["mean"] >= 0.9, f"rho {rho['mean']:.3f}"),
            "flat": (top <= 1.1 * largest, f"{top:.4g}, the largest is {largest:.4g}"),
        }
        return Summary(rows, checks, {"largest_in_data": largest})

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """Achieved against asked, one line a seed, the data's largest return marked."""
        for row in measured:
            axes.plot(row["asked"], row["means"], color=plots.PALE, marker="o", markersize=3)
        asked = measured[0]["asked"]
        axes.plot(
            asked, np.mean([row["means"] for row in measured], axis=0), color=plots.ACCENT, label="mean over seeds"
        )
        axes.plot([0, max(asked)], [0, max(asked)], color=plots.INK, alpha=0.4, linewidth=1, label="achieved = asked")
        axes.axvline(target_of(measured), color=plots.INK, linestyle=":", label="largest return in the data")
        axes.set_xlabel("asked return")
        axes.set_ylabel("achieved return, mean of the episodes of a seed")
        axes.legend(frameon=False)
