"""Decision Transformer against its simple rivals on control data: delayed reward, %BC, little data."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.task_data import (
    BC_NOTE,
    DATA_NOTE,
    EVIDENCE_NOTE,
    RECIPE_NOTE,
    TITLES,
    Control,
    ControlExperiment,
    format_difference,
)
from rl_transformer.reproductions.reproduction import Cell, Measured, Row, Setup, Summary, values_of


class Delayed(ControlExperiment):
    """Dense against delayed reward (Chen et al. 2021, table 7)."""

    name = "delayed"
    title = "Delayed reward"
    question = (
        "All reward is moved to the last step of an episode, so that the return asked for stays the same throughout. Does "
        "the Decision Transformer lose by it? Behavior cloning and %BC cannot: the returns of whole episodes are the same."
    )
    rules: ClassVar = {
        "keeps": "delayed reaches 90 % of dense or more, in the mean over seeds",
        "rival": "delayed is not worse than %BC (10 %): the 95 % interval of the paired difference reaches 0 or above",
    }
    arms = ("dt", "dt-delayed", "bc-10", "bc-100")
    differs = (DATA_NOTE, RECIPE_NOTE, BC_NOTE, "No TD baseline is run; the paper's CQL collapses under delay.")
    unknown = (
        "The paper's figures for medium and medium-replay data could not be checked and are left out.",
        "Whether longer training, or a longer context than K = 5, changes the comparison.",
        EVIDENCE_NOTE,
    )
    published: ClassVar = {
        "dt": "107.6 [S], normalized, D4RL Hopper medium-expert",
        "dt-delayed": "107.3 ± 3.5 [S], same",
        "bc-10": "102.6 [S], same",
    }

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare dense, delayed and %BC."""
        rows = self.rows(measured)
        dense, delayed, rival = (rows[arm].score for arm in ("dt", "dt-delayed", "bc-10"))
        gap = over_seeds(np.subtract(delayed["values"], rival["values"]).tolist())
        # A share of a return that is not positive says nothing.
        share = delayed["mean"] / dense["mean"] if dense["mean"] > 0 else None
        keeps = (None, "the dense return is not positive") if share is None else (share >= 0.9, f"{100 * share:.0f} %")
        reaches = None if gap["interval"] is None else gap["interval"][1] >= 0
        listed = [Row(row.what, row.score, self.published.get(arm, "-")) for arm, row in rows.items()]
        return Summary(listed, {"keeps": keeps, "rival": (reaches, format_difference(gap))}, {"gap": gap})


class PercentBC(ControlExperiment):
    """Is it imitation of the best? (Chen et al. 2021, table 3)."""

    name = "percent-bc"
    title = "Decision Transformer against %BC"
    question = (
        "Behavior cloning of the best 10, 25, 40 and 100 % of timesteps, against a Decision Transformer that is asked for the "
        "data's best return. The paper's own reading of its table is that the best %BC is about as good, if one knows the share."
    )
    rules: ClassVar = {
        "level": "DT is not worse than the best %BC: the 95 % interval of the paired difference reaches 0 or above",
        "clones": "DT is better than cloning everything: the interval of the paired difference is above 0",
    }
    arms = ("dt", "bc-10", "bc-25", "bc-40", "bc-100")
    differs = (DATA_NOTE, RECIPE_NOTE, BC_NOTE, "The best share is chosen by its score, to the advantage of %BC.")
    unknown = ("The paper's table could not be checked cell by cell and is left out.", EVIDENCE_NOTE)

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare with the best share."""
        rows = self.rows(measured)
        best = max((arm for arm in self.arms if arm != "dt"), key=lambda arm: rows[arm].score["mean"])
        gaps = {
            arm: over_seeds(np.subtract(rows["dt"].score["values"], rows[arm].score["values"]).tolist())
            for arm in (best, "bc-100")
        }
        unsaid = gaps[best]["interval"] is None
        checks: dict[str, tuple[bool | None, str]] = {
            "level": (
                None if unsaid else gaps[best]["interval"][1] >= 0,
                f"best: {TITLES[best]}; {format_difference(gaps[best])}",
            ),
            "clones": (None if unsaid else gaps["bc-100"]["interval"][0] > 0, format_difference(gaps["bc-100"])),
        }
        return Summary(list(rows.values()), checks, {"gaps": gaps, "best_percent_bc": best})


class SmallData(ControlExperiment):
    """LaMo without pre-training: does the architecture alone help when data is scarce? (Shi et al. 2024)."""

    name = "small-data"
    title = "Little data: frozen random blocks with LoRA and MLP embeddings"
    question = (
        "LaMo starts from a language model, freezes it, trains a low-rank change and embeds by MLPs. Its own ablation says that "
        "much of the gain on little data comes without any language. Here: the same with random frozen blocks against "
        "a plain Decision Transformer, on 100, 10 and 1 % of the episodes, drawn anew for each seed."
    )
    rules: ClassVar = {
        "same": "100 % of the episodes: no difference established (the 95 % interval of the paired difference holds 0)",
        "helps": "1 % of the episodes: the frozen blocks are better (the interval is above 0)",
    }
    arms = ("dt", "lora")
    differs = (
        DATA_NOTE,
        RECIPE_NOTE,
        "LaMo's blocks are those of GPT-2 small (12 layers, width 768) and its ablation keeps that size; ours are as small as the "
        "plain model's. Observations are normalized by the small sample itself.",
    )
    unknown = ("Whether frozen random blocks need LaMo's size to help.",)

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The shares of episodes."""
        return {**super().recipe(setup), "shares": [1.0, 0.1] if setup.quick else [1.0, 0.1, 0.01]}

    def cells(self, setup: Setup) -> list[Cell]:
        """Two policies a share and seed."""
        shares = self.recipe(setup)["shares"]
        return [{"arm": a, "share": s, "seed": i} for i in range(setup.seeds) for s in shares for a in self.arms]

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Open the data, and see that the smallest share is an episode or more."""
        control = Control.of(setup)
        found = control.prepare()
        control.dataset(min(self.recipe(setup)["shares"]))
        return found

    def asked(self, measured: Measured) -> str:
        """Return that every share has a best of its own."""
        return "the best return of the episodes learned from"

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The mean return when asked for the best of the episodes it learned from."""
        return Control.of(setup).score(cell["arm"], cell["seed"], share=cell["share"])

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare the two at each share."""
        published = {1.0: ("60.9 [F]", "64.5 [F]"), 0.1: ("57.3 [F]", "57.7 [F]"), 0.01: ("41.9 [F]", "46.0 [F]")}
        rows, gaps = [], {}
        for share in self.recipe(setup)["shares"]:
            scores = [over_seeds(values_of(measured, "mean", arm=arm, share=share)) for arm in self.arms]
            for arm, score, figure in zip(self.arms, scores, published[share], strict=True):
                rows.append(
                    Row(f"{100 * share:g} % of episodes: {TITLES[arm]}", score, f"{figure}, D4RL Hopper medium")
                )
            gaps[share] = over_seeds(np.subtract(scores[1]["values"], scores[0]["values"]).tolist())
        told = {share: format_difference(gap) for share, gap in gaps.items()}
        least, unsaid = gaps.get(0.01), gaps[1.0]["interval"] is None
        checks: dict[str, tuple[bool | None, str]] = {
            "same": (None if unsaid else gaps[1.0]["interval"][0] <= 0 <= gaps[1.0]["interval"][1], told[1.0]),
            "helps": (None, "not measured") if unsaid or least is None else (least["interval"][0] > 0, told[0.01]),
        }
        return Summary(rows, checks, {"gaps": {f"{share:g}": gap for share, gap in gaps.items()}})
