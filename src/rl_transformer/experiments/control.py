"""Control data: what the experiments on it share, and four of them.

The data is the user's (``--data``, ``--env-id``) or made here: CartPole under a linear controller
whose share of random actions differs from episode to episode, so that returns spread from failure
to perfection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.environments import check_spaces, make_environment
from rl_transformer.evaluation.record import record_episodes
from rl_transformer.evaluation.statistics import over_seeds, rank_correlation
from rl_transformer.experiments.arms import configured, made_once, returns_at, trained_policy
from rl_transformer.experiments.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.presets import fast
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

LOCAL_ENV = "CartPole-v1"
DATA_NOTE = (
    "Scores are plain returns of the environment. Unless the data is D4RL's own, they are not comparable with D4RL's."
)
RECIPE_NOTE = (
    "All arms on control data share one recipe of ours, smaller and shorter than the published one (`fast` with the options "
    "listed in `result.json`; in full runs width 64, step size 2e-3, 2,000 updates): differences between arms are the "
    "experiment, absolute scores are not those of the published recipe."
)
EVIDENCE_NOTE = (
    'That an arm is "not worse" means that no deficit was established; the interval says how large one could still be.'
)
BC_NOTE = "%BC and BC are the same transformer without returns on the best episodes, by timesteps, not the paper's MLP."

ARMS: Mapping[str, Mapping[str, Any]] = {
    "dt": {},
    "dt-delayed": {"returns.update": "keep"},
    "bc-100": {"model.conditions": []},
    "bc-40": {"model.conditions": [], "dataset.top_fraction": 0.4},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc-10": {"model.conditions": [], "dataset.top_fraction": 0.1},
    "lora": {"training.trunk": "lora", "model.embedding": "mlp"},
}
_FULL = {"model.hidden_size": 64, "training.train_steps": 2_000, "training.learning_rate": 2e-3}
_QUICK = {
    **_FULL,
    "model.hidden_size": 32,
    "model.n_layer": 2,
    "training.train_steps": 300,
    "training.batch_size": 64,
    "training.warmup_steps": 50,
    "training.average_decay": 0.9,
}
TITLES = {
    "dt": "Decision Transformer",
    "dt-delayed": "Decision Transformer, delayed reward",
    "bc-100": "behavior cloning (100 %)",
    "bc-40": "%BC, best 40 % of timesteps",
    "bc-25": "%BC, best 25 % of timesteps",
    "bc-10": "%BC, best 10 % of timesteps",
    "lora": "frozen random blocks + LoRA + MLP embeddings",
}


@dataclass(frozen=True)
class Control:
    """Control data with its environment, and the recipe of every arm."""

    setup: Setup
    uri: str
    env_id: str

    @classmethod
    def of(cls, setup: Setup) -> Control:
        """Return the user's data, or the local one."""
        if setup.data and setup.env_id:
            return cls(setup, setup.data, setup.env_id)
        folder = setup.runs / "data" / f"cartpole-{cls._episodes(setup)}"
        return cls(setup, f"rlt:{folder}", LOCAL_ENV)

    def prepare(self) -> dict[str, Any]:
        """Make or open the data, refuse an environment that is not its own, and return what identifies the data.

        Raises:
            RLTransformerError: No such data, no such simulator, or other spaces.
        """
        environment = make_environment(self.env_id)  # a missing simulator is found before any training
        data = self.dataset()
        check_spaces(environment, data.spec, self.env_id)
        environment.close()
        return {"fingerprint": data.fingerprint}

    @staticmethod
    def _episodes(setup: Setup) -> int:
        return 100 if setup.quick else 500

    def dataset(self, share: float = 1.0, seed: int = 0) -> TrajectoryDataset:
        """Open the data, or a random share of its episodes as a data set of its own.

        Raises:
            RLTransformerError: No such data, or too few episodes for the share.
        """
        if not self.setup.data:
            made_once(self.setup, Path(self.uri).name, lambda folder: local_data(folder, self._episodes(self.setup)))
        whole = open_trajectories(self.uri)
        if share == 1:
            return whole
        count = len(whole) * share
        if count < 1:
            raise RLTransformerError(
                f"{share:g} of {len(whole)} episodes is less than one", where=self.uri, fix="use a larger data set"
            )
        chosen = np.sort(np.random.default_rng([seed, 0xDA]).permutation(len(whole))[: round(count)])
        return TrajectoryDataset.in_memory(whole.spec, [whole.trajectory(int(i)) for i in chosen])

    def recipe(self) -> dict[str, Any]:
        """Return what determines the scores."""
        quick = self.setup.quick
        return {
            "env_id": self.env_id,
            "episodes": 20 if quick else 50,
            "options": _QUICK if quick else _FULL,
        }

    def score(
        self, arm: str, seed: int, options: Mapping[str, Any] | None = None, *, share: float = 1.0, targets: Any = None
    ) -> dict[str, Any]:
        """Train an arm and return its mean return when asked for the data's largest one (or for ``targets``)."""
        dataset, recipe = self.dataset(share, seed), self.recipe()
        config = configured(fast(), {**recipe["options"], **ARMS[arm], **(options or {}), "training.seed": seed})
        config.dataset.uri = self.uri
        policy = trained_policy(config, self.setup, dataset)
        largest = float(dataset.episode_returns.max())
        asked = [largest] if targets is None else list(targets)
        earned = returns_at(policy, self.env_id, asked, recipe["episodes"])
        means = [float(np.mean(episodes)) for episodes in earned]
        return {"asked": asked, "mean": means[0], "means": means, "largest": largest, "episodes": earned}


class _EverySkill:
    """A linear controller for CartPole; each episode has a share of random actions of its own."""

    def __init__(self) -> None:
        self._episode: np.random.Generator | None = None
        self._randomness = 0.0

    def __call__(self, seen: np.ndarray, random: np.random.Generator) -> int:
        if random is not self._episode:  # every episode comes with its own generator
            self._episode, self._randomness = random, random.random()
        if random.random() < self._randomness:
            return int(random.integers(2))
        return int(seen @ np.array([0.1, 0.5, 1.0, 1.0]) > 0)


def local_data(folder: Path, num_episodes: int) -> TrajectoryDataset:
    """Record CartPole under controllers from random to perfect."""
    environment = make_environment(LOCAL_ENV)
    recorded = record_episodes(environment, LOCAL_ENV, num_episodes, seed=10_000_000, behavior=_EverySkill())
    return write_store(folder, *recorded)


def target_of(measured: Measured) -> float:
    """Return the largest return of the whole data: what every arm was asked for."""
    return max(row["largest"] for row in measured if "largest" in row)


class ControlExperiment(Experiment):
    """An experiment whose cells are arms on control data."""

    unit = "return"
    takes_data = True
    arms: ClassVar[tuple[str, ...]]

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The shared recipe and this experiment's arms."""
        return {**Control.of(setup).recipe(), "arms": {arm: dict(ARMS[arm]) for arm in self.arms}}

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make or open the data."""
        return Control.of(setup).prepare()

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy an arm and seed."""
        return [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in self.arms]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The mean return when asked for the data's best."""
        return Control.of(setup).score(cell["arm"], cell["seed"])

    def rows(self, measured: Measured) -> dict[str, Row]:
        """One row an arm."""
        return {arm: Row(TITLES[arm], over_seeds(values_of(measured, "mean", arm=arm))) for arm in self.arms}

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """One bar a row."""
        plots.bars(
            axes, [(row.what, row.score) for row in summary.rows], f"return when asked for {self.asked(measured)}"
        )

    def asked(self, measured: Measured) -> str:
        """Return what the arms were asked for, for the figure."""
        return f"{target_of(measured):.4g}"


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
        return Summary(listed, {"keeps": keeps, "rival": (reaches, told_gap(gap))}, {"gap": gap})


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
                f"best: {TITLES[best]}; {told_gap(gaps[best])}",
            ),
            "clones": (None if unsaid else gaps["bc-100"]["interval"][0] > 0, told_gap(gaps["bc-100"])),
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
        told = {share: told_gap(gap) for share, gap in gaps.items()}
        least, unsaid = gaps.get(0.01), gaps[1.0]["interval"] is None
        checks: dict[str, tuple[bool | None, str]] = {
            "same": (None if unsaid else gaps[1.0]["interval"][0] <= 0 <= gaps[1.0]["interval"][1], told[1.0]),
            "helps": (None, "not measured") if unsaid or least is None else (least["interval"][0] > 0, told[0.01]),
        }
        return Summary(rows, checks, {"gaps": {f"{share:g}": gap for share, gap in gaps.items()}})


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


def told_gap(gap: Mapping[str, Any]) -> str:
    """Return a paired difference with its interval as text."""
    if gap["interval"] is None:
        return f"difference {gap['mean']:+.3g}, one seed"
    return f"difference {gap['mean']:+.3g} [{gap['interval'][0]:+.3g}, {gap['interval'][1]:+.3g}]"
