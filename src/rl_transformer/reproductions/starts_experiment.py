"""What experiments on starts from language models share: rates that are chosen on other data, and learning curves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.language.text import read_text
from rl_transformer.reproductions.cells import cell_file
from rl_transformer.reproductions.experiment import JSON, Cell, Experiment, Measured, Setup, Summary, pick
from rl_transformer.reproductions.language_starts import read_curve, record_curve, text_file, text_hash
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, cached_run
from rl_transformer.reproductions.starts_judging import Contrasts, area_of, is_testable, judge
from rl_transformer.reproductions.task_data import TaskData, target_of
from rl_transformer.runtime.reading import read_json
from rl_transformer.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rl_transformer.trajectories import TrajectoryDataset

_FIRST_SEED = 1_000  # of the arms that are judged; rates are chosen with the seeds from 0 on


class StartsExperiment(Experiment):
    """Starts of a policy compared by the area under the learning curve, if the language model has learned language.

    ``recipe`` must have ``language_models`` by kind, ``rates``, ``tuning_seeds``, ``points`` and ``episodes`` (``tuning``
    and ``curve``).
    """

    contrasts: ClassVar[Contrasts]
    rate_of: ClassVar[Mapping[str, str]] = {}
    """Arms that take the learning rate of another arm; every other arm chooses its own."""
    unit = "return"
    takes_data = True
    takes_text = True
    takes_tuning_data = True

    @abstractmethod
    def measure_language(self, kind: str, setup: Setup) -> JSON:
        """Return the measures of a language model."""

    @abstractmethod
    def run_config(self, arm: str, rate: float, setup: Setup) -> RunConfig:
        """Return the options of a policy, without its seed and its evaluations."""

    def describe_policy(self, run: Path, config: RunConfig, dataset: TrajectoryDataset, setup: Setup) -> JSON:
        """Return further measures of a policy that is judged."""
        return {}

    def prepare(self, setup: Setup) -> JSON:
        """Make or open the data and the text."""
        tuning = tuning_data(setup).prepare()["fingerprint"]
        return {**TaskData.from_setup(setup).prepare(), "tuning": tuning, "text": text_hash(setup)}

    def cells(self, setup: Setup) -> list[Cell]:
        """Return the language models, then one policy per rate, arm and seed, then one per arm and fresh seed."""
        recipe = self.recipe(setup)
        models = [{"arm": "language", "kind": kind} for kind in recipe["language_models"]]
        seeds = range(recipe["tuning_seeds"])
        choice = [{"arm": arm, "rate": r, "seed": s} for s in seeds for r in recipe["rates"] for arm in self._tuned()]
        judged = [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in self.contrasts.titles]
        return [*models, *choice, *judged]

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return a language model's bits per byte, or the learning curve of a policy."""
        if cell.get("kind") == "text":
            return self.measure_language("text", setup)
        # Nothing else is worth its hours if the language model has not learned language.
        if not setup.quick and not is_testable(self._measured({"arm": "language", "kind": "text"}, setup)):
            return {"skipped": True}
        if cell["arm"] == "language":
            return self.measure_language(cell["kind"], setup)
        is_choice = "rate" in cell
        rate = cell["rate"] if is_choice else self.chosen_rates(setup)[cell["arm"]]
        data = tuning_data(setup) if is_choice else TaskData.from_setup(setup)
        dataset = data.dataset()
        largest = float(dataset.episode_returns.max())
        config = self.run_config(cell["arm"], rate, setup)
        config.training.seed = cell["seed"] + (0 if is_choice else _FIRST_SEED)
        recipe = self.recipe(setup)
        episodes = recipe["episodes"]["tuning" if is_choice else "curve"]
        record_curve(config, data, largest, points=recipe["points"], episodes=episodes)
        config.evaluation.seed = (3 if is_choice else 2) * EVALUATION_SEED
        run = cached_run(config, setup, dataset)
        rows = read_metrics(run)
        return {
            "learning_rate": rate,
            "curve": read_curve(rows),
            "action_error": [row["validation_action_error"] for row in rows if "validation_action_error" in row][-1],
            "largest": largest,
            **({} if is_choice else self.describe_policy(run, config, dataset, setup)),
        }

    def chosen_rates(self, setup: Setup) -> dict[str, float]:
        """Return for each arm the learning rate with the largest mean area on the tuning data."""
        recipe = self.recipe(setup)
        chosen = {}
        for arm in self._tuned():
            areas = {
                rate: np.mean(
                    [
                        area_of(self._measured({"arm": arm, "rate": rate, "seed": seed}, setup))
                        for seed in range(recipe["tuning_seeds"])
                    ]
                )
                for rate in recipe["rates"]
            }
            chosen[arm] = max(areas, key=areas.__getitem__)
        return {**chosen, **{arm: chosen[other] for arm, other in self.rate_of.items()}}

    def _tuned(self) -> list[str]:
        return [arm for arm in self.contrasts.titles if arm not in self.rate_of]

    def _measured(self, cell: Cell, setup: Setup) -> JSON:
        """Return a cell's measures: from its file, or, where it is being measured elsewhere, after its training."""
        path = cell_file(setup, cell)
        return read_json(path, fix="delete this file and repeat") if path.exists() else self.measure(cell, setup)

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Judge the gate, then the contrasts of areas."""
        return judge(measured, self.contrasts)

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw learning curves, the mean over seeds."""
        if any("skipped" in row for row in measured):
            axes.set_title("not testable: no policy was trained")
            return
        judged = (self.contrasts.lead, *self.contrasts.controls)
        for index, (arm, title) in enumerate(self.contrasts.titles.items()):
            curves = np.array([row["curve"] for row in pick(measured, arm=arm, rate=None)])
            width = 1.5 if arm in judged else 0.8
            axes.plot(curves[0, :, 0], curves[:, :, 1].mean(0), ".-", color=f"C{index}", lw=width, label=title)
        axes.axhline(summary.figures["threshold"], color="0.7", lw=0.8)
        axes.set_xlabel("updates")
        axes.set_ylabel(f"return with target {target_of(pick(measured, rate=None)):.4g}, mean over seeds")
        axes.legend(frameon=False, fontsize=8)


def tuning_data(setup: Setup) -> TaskData:
    """Return the data on which learning rates are chosen."""
    return TaskData.from_setup(replace(setup, data=setup.tuning_data or setup.data))


def split_text(setup: Setup) -> tuple[str, str]:
    """Return the text to learn from and its last tenth, which is held out; the cut is at a line break if there is one."""
    text = read_text(text_file(setup))
    cut = text.find("\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    return text[:cut], text[cut:]
