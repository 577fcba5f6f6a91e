"""Decision Transformer against simple baselines on control data: delayed reward, %BC, little data."""

from __future__ import annotations

from typing import ClassVar

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.differences import (
    contains_zero,
    format_difference,
    is_above_zero,
    paired_difference,
    reaches_zero,
)
from rl_transformer.reproductions.experiment import JSON, Cell, Check, Measured, Row, Setup, Summary, values_of
from rl_transformer.reproductions.task_data import (
    BC_NOTE,
    DATA_NOTE,
    EVIDENCE_NOTE,
    RECIPE_NOTE,
    TITLES,
    TaskData,
    TaskDataExperiment,
)


class Delayed(TaskDataExperiment):
    """Dense against delayed reward (Chen et al. 2021, table 7)."""

    name = "delayed"
    title = "Delayed reward"
    question = (
        "All reward is moved to the last step of an episode, so that the return-to-go is the same at every step. Does "
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
        rows = self.make_rows(measured)
        dense = rows["dt"].score["mean"]
        delayed = rows["dt-delayed"].score
        difference = paired_difference(delayed, rows["bc-10"].score)
        # A share of a return that is not positive has no meaning.
        share = delayed["mean"] / dense if dense > 0 else None
        checks = {
            "keeps": Check(None, "the dense return is not positive")
            if share is None
            else Check(share >= 0.9, f"{100 * share:.0f} %"),
            "rival": Check(reaches_zero(difference), format_difference(difference)),
        }
        with_published = [Row(row.what, row.score, self.published.get(arm, "-")) for arm, row in rows.items()]
        return Summary(with_published, checks, {"gap": difference})


class PercentBC(TaskDataExperiment):
    """Is it imitation of the best? (Chen et al. 2021, table 3)."""

    name = "percent-bc"
    title = "Decision Transformer against %BC"
    question = (
        "Behavior cloning of the best 10, 25, 40 and 100 % of timesteps, against a Decision Transformer whose target is the "
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
        rows = self.make_rows(measured)
        best = max((arm for arm in self.arms if arm != "dt"), key=lambda arm: rows[arm].score["mean"])
        differences = {arm: paired_difference(rows["dt"].score, rows[arm].score) for arm in (best, "bc-100")}
        to_best = differences[best]
        to_all = differences["bc-100"]
        checks = {
            "level": Check(reaches_zero(to_best), f"best: {TITLES[best]}; {format_difference(to_best)}"),
            "clones": Check(is_above_zero(to_all), format_difference(to_all)),
        }
        return Summary(list(rows.values()), checks, {"gaps": differences, "best_percent_bc": best})


class SmallData(TaskDataExperiment):
    """LaMo without pretraining: does the architecture alone help when data is scarce? (Shi et al. 2024)."""

    name = "small-data"
    title = "Little data: frozen random blocks with LoRA and MLP embeddings"
    question = (
        "LaMo starts from a language model, freezes it, trains a low-rank update of it and embeds with MLPs. Its own ablation "
        "says that much of the gain on little data comes without any language. Here: the same with random frozen blocks against "
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
        "plain model's. Observations are normalized by the statistics of the small sample itself.",
    )
    unknown = ("Whether frozen random blocks need LaMo's size to help.",)
    published: ClassVar = {1.0: ("60.9 [F]", "64.5 [F]"), 0.1: ("57.3 [F]", "57.7 [F]"), 0.01: ("41.9 [F]", "46.0 [F]")}

    def recipe(self, setup: Setup) -> JSON:
        """Return the shared recipe and the shares of episodes."""
        return {**super().recipe(setup), "shares": [1.0, 0.1] if setup.quick else [1.0, 0.1, 0.01]}

    def cells(self, setup: Setup) -> list[Cell]:
        """Return two policies per share and seed."""
        shares = self.recipe(setup)["shares"]
        return [
            {"arm": arm, "share": share, "seed": seed}
            for seed in range(setup.seeds)
            for share in shares
            for arm in self.arms
        ]

    def prepare(self, setup: Setup) -> JSON:
        """Open the data, and refuse data whose smallest share is less than one episode."""
        data = TaskData.from_setup(setup)
        identity = data.prepare()
        data.dataset(min(self.recipe(setup)["shares"]))
        return identity

    def target_text(self, measured: Measured) -> str:
        """Return that every share has a target of its own."""
        return "the best return of the episodes learned from"

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return the mean return with the best return of the cell's share of episodes as target."""
        return TaskData.from_setup(setup).score(cell["arm"], cell["seed"], share=cell["share"])

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare the two policies at each share."""
        rows = []
        differences = {}
        for share in self.recipe(setup)["shares"]:
            scores = [over_seeds(values_of(measured, "mean", arm=arm, share=share)) for arm in self.arms]
            for arm, score, figure in zip(self.arms, scores, self.published[share], strict=True):
                what = f"{100 * share:g} % of episodes: {TITLES[arm]}"
                rows.append(Row(what, score, f"{figure}, D4RL Hopper medium"))
            plain, frozen = scores
            differences[share] = paired_difference(frozen, plain)
        all_episodes = differences[1.0]
        least = differences.get(0.01)
        checks = {
            "same": Check(contains_zero(all_episodes), format_difference(all_episodes)),
            "helps": Check(None, "not measured")
            if least is None or least["interval"] is None
            else Check(is_above_zero(least), format_difference(least)),
        }
        return Summary(rows, checks, {"gaps": {f"{share:g}": value for share, value in differences.items()}})
