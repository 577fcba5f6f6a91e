"""The protocol of the Gym table (Chen et al. 2021, table 2) on whatever control data is at hand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rl_transformer.evaluation import plots
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.statistics import D4RL_REFERENCES, normalized_score, over_seeds
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, with_options, returns_at, cached_run
from rl_transformer.reproductions.task_data import EVIDENCE_NOTE, Control, target_of, format_difference
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.policy import load_policy
from rl_transformer.config.presets import preset
from rl_transformer.run import last_and_best

_MLP = {
    "model.arch": "behavior_cloning",
    "model.hidden_size": 256,
    "training.warmup_steps": 0,
    "training.max_gradient_norm": None,
}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "gym": ("gym", {"training.precision": "bfloat16", "training.train_steps": 20_000}),
    "fast": ("fast", {}),
    "bc-10": ("fast", {"model.conditions": [], "dataset.top_fraction": 0.1}),
    "bc": ("gym", {**_MLP, "training.train_steps": 25_000}),
}
TITLES = {
    "gym": "Decision Transformer, published recipe (`gym`)",
    "fast": "Decision Transformer, our recipe (`fast`)",
    "bc-10": "%BC, best 10 % of timesteps, our recipe without returns",
    "bc": "behavior cloning, the paper's MLP",
}


class Locomotion(Experiment):
    """Published recipe, ours, %BC and BC on one data set."""

    name = "locomotion"
    title = "Locomotion: the protocol of the Gym table"
    question = (
        "The published recipe, ours, %BC and behavior cloning on one data set, asked for the largest return of the data: the last "
        "policy of each run on fresh episodes, and beside it the best of four evaluations while training, which is "
        "an optimist's figure. Name the data with `--data` and `--env-id`; with D4RL's files (`--data d4rl:FILE.hdf5`) the same "
        "command gives the rows of the paper's table at fewer updates, normalized as there."
    )
    rules: ClassVar = {
        "recipe": "`fast` is not worse than the published recipe: the 95 % interval of the paired difference reaches 0 or above",
        "rival": "`fast` is not worse than %BC: the interval of the paired difference reaches 0 or above",
    }
    unit = "return"
    seeds = 3
    takes_data = True
    differs = (
        "The published recipe runs for 20,000 updates instead of 100,000, and in bfloat16 autocast; half of them are its warm-up.",
        "One target, the largest return of the data, by a rule written before; the paper's code asks for two.",
        "Scores on local data are local: 0 is a random policy measured here, 100 the best episode of the data. They are not D4RL's.",
        "%BC is our recipe without returns; the paper's is its MLP.",
    )
    unknown = (
        "Three seeds, the paper's number and the default here, cannot tell methods apart that lie within a few hundred points of "
        "return: a verdict needs five.",
        EVIDENCE_NOTE,
    )

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The arms."""
        control = Control.of(setup)
        short = {"training.train_steps": 200, "training.batch_size": 32, "model.hidden_size": 32} if setup.quick else {}
        arms = {arm: {"preset": name, "options": {**options, **short}} for arm, (name, options) in ARMS.items()}
        return {"env_id": control.env_id, "episodes": 20 if setup.quick else 100, "arms": arms}

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make or open the data."""
        return Control.of(setup).prepare()

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy an arm and seed, and a random policy."""
        arms = [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in ARMS]
        return [*arms, {"arm": "random", "seed": 0}]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The return of the last policy, and the evaluations while training."""
        recipe, control = self.recipe(setup), Control.of(setup)
        dataset, episodes = control.dataset(), recipe["episodes"]
        largest = float(dataset.episode_returns.max())
        if cell["arm"] == "random":
            environment = make_environment(control.env_id)
            _, walks = record_episodes(environment, control.env_id, episodes, seed=EVALUATION_SEED)
            return {"mean": float(np.mean([walk.rewards.sum() for walk in walks])), "largest": largest}
        arm = recipe["arms"][cell["arm"]]
        config = with_options(preset(arm["preset"]), {**arm["options"], "training.seed": cell["seed"]})
        config.dataset.uri = control.uri
        config.evaluation.env_id, config.evaluation.num_episodes = control.env_id, 20
        config.evaluation.every = config.training.train_steps // 4
        config.evaluation.seed = 2 * EVALUATION_SEED
        if config.model.conditions and config.model.arch == "decision_transformer":
            config.evaluation.target_returns = [largest]
        run = cached_run(config, setup, dataset)
        (history,) = last_and_best(run).values()
        earned = returns_at(load_policy(run), control.env_id, [largest], episodes)[0]
        return {"mean": float(np.mean(earned)), "best": history["best"], "episodes": earned, "largest": largest}

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Last and best of each arm; differences seed by seed."""
        random, largest = values_of(measured, "mean", arm="random")[0], target_of(measured)
        last = {arm: over_seeds(values_of(measured, "mean", arm=arm)) for arm in ARMS}
        rows = [Row(f"{TITLES[arm]}: last", score) for arm, score in last.items()]
        rows += [Row(f"{TITLES[arm]}: best of 4", over_seeds(values_of(measured, "best", arm=arm))) for arm in ARMS]
        gaps = {
            a: over_seeds(np.subtract(last["fast"]["values"], last[a]["values"]).tolist()) for a in ("gym", "bc-10")
        }
        reach = {arm: None if gap["interval"] is None else gap["interval"][1] >= 0 for arm, gap in gaps.items()}
        checks: dict[str, tuple[bool | None, str]] = {
            "recipe": (reach["gym"], format_difference(gaps["gym"])),
            "rival": (reach["bc-10"], format_difference(gaps["bc-10"])),
        }
        reference = self._reference(setup)
        for arm, score in last.items():
            if reference is None:
                local = [100 * (value - random) / (largest - random) for value in score["values"]]
                rows.append(Row(f"{TITLES[arm]}: last, local score", over_seeds(local), unit="score"))
            else:
                scores = [normalized_score(value, reference) or 0.0 for value in score["values"]]
                rows.append(
                    Row(f"{TITLES[arm]}: last, D4RL's score", over_seeds(scores), self._published(arm), "score")
                )
        figures = {
            "gaps": gaps,
            "local_reference": {"random": random, "best_in_data": largest},
            "reference": reference,
        }
        return Summary(rows, checks, figures)

    @staticmethod
    def _reference(setup: Setup) -> str | None:
        """Return the name of D4RL's reference scores if the data is D4RL's."""
        name = (setup.env_id or "").partition("-")[0].lower()
        return name if (setup.data or "").startswith("d4rl:") and name in D4RL_REFERENCES else None

    @staticmethod
    def _published(arm: str) -> str:
        """Return the paper's rows, of which one is of the data at hand."""
        return "Hopper medium 67.6, replay 82.7, medium-expert 107.6 [S]" if arm == "gym" else "-"

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """One bar a row."""
        rows = [(row.what, row.score) for row in summary.rows if row.unit is None]
        plots.bars(axes, rows, f"return when asked for {target_of(measured):.4g}")
