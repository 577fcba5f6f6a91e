"""Loss and score against width and depth."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.run_cache import with_options, returns_at, cached_run
from rl_transformer.reproductions.task_data import DATA_NOTE, Control, format_difference
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, pick, values_of
from rl_transformer.policy import load_policy
from rl_transformer.config.presets import fast
from rl_transformer.training.metrics import read_metrics

_FULL = {"training.train_steps": 1_500, "training.precision": "bfloat16", "training.batch_size": 128}
_QUICK = {"training.train_steps": 60, "training.batch_size": 32}
_SIZES = ((32, 3), (64, 3), (128, 3), (256, 3), (128, 1), (128, 6))
_QUICK_SIZES = ((16, 1), (32, 1), (32, 2))


class Scaling(Experiment):
    """One recipe at several sizes."""

    name = "scaling"
    title = "Width and depth"
    question = (
        "The same recipe at equal updates with blocks of other widths and depths: what becomes of the loss, and of the score? "
        "(Reid et al. 2022 compare language models of several sizes; their figures could not be checked and are left out.)"
    )
    rules: ClassVar = {
        "loss": "the widest network ends with a lower training loss than the narrowest: the interval of the paired difference is below 0",
        "score": "and with a better score: the interval of the paired difference is above 0",
    }
    unit = "return"
    seeds = 5
    takes_data = True
    differs = (
        DATA_NOTE,
        "From scratch, with the recipe `fast` and its step size for every size, for 1,500 updates; the paper compares pretrained models.",
    )
    unknown = ("Whether a step size tuned for each size, or more updates, would change the order.",)

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The sizes and the shared options."""
        return {
            "env_id": Control.of(setup).env_id,
            "episodes": 10 if setup.quick else 50,
            "sizes": [list(size) for size in (_QUICK_SIZES if setup.quick else _SIZES)],
            "options": _QUICK if setup.quick else _FULL,
        }

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make or open the data."""
        return Control.of(setup).prepare()

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy a size and seed."""
        sizes = self.recipe(setup)["sizes"]
        return [{"width": w, "depth": d, "seed": seed} for seed in range(setup.seeds) for w, d in sizes]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The loss of the last tenth of the updates, and the score of the last policy."""
        recipe, control = self.recipe(setup), Control.of(setup)
        dataset = control.dataset()
        options = {"model.hidden_size": cell["width"], "model.n_layer": cell["depth"], "training.seed": cell["seed"]}
        config = with_options(fast(), {**recipe["options"], **options})
        config.dataset.uri = control.uri
        run = cached_run(config, setup, dataset)
        losses = [row["loss"] for row in read_metrics(run) if "loss" in row]
        policy = load_policy(run)
        largest = float(dataset.episode_returns.max())
        earned = returns_at(policy, control.env_id, [largest], recipe["episodes"])[0]
        blocks = sum(p.numel() for p in policy.model.get_submodule("encoder").parameters())
        last = losses[-max(1, len(losses) // 10) :]
        return {"mean": float(np.mean(earned)), "loss": float(np.mean(last)), "blocks": blocks, "largest": largest}

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Loss and score of each size."""
        sizes = sorted((row["width"], row["depth"]) for row in pick(measured, seed=0))
        rows = []
        for measure, unit in (("loss", "loss"), ("mean", None)):
            for width, depth in sizes:
                score = over_seeds(values_of(measured, measure, width=width, depth=depth))
                rows.append(Row(f"width {width}, {depth} layers: {'loss' if unit else 'score'}", score, unit=unit))
        shared = max({depth for _, depth in sizes}, key=[depth for _, depth in sizes].count)
        widths = [width for width, depth in sizes if depth == shared]
        gaps = {}
        for measure in ("loss", "mean"):
            ends = [values_of(measured, measure, width=w, depth=shared) for w in (widths[0], widths[-1])]
            gaps[measure] = over_seeds(np.subtract(ends[1], ends[0]).tolist())
        unsaid = gaps["loss"]["interval"] is None
        checks: dict[str, tuple[bool | None, str]] = {
            "loss": (None if unsaid else gaps["loss"]["interval"][1] < 0, format_difference(gaps["loss"])),
            "score": (None if unsaid else gaps["mean"]["interval"][0] > 0, format_difference(gaps["mean"])),
        }
        return Summary(rows, checks, {"gaps": gaps})

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """Loss and score over the parameters of the blocks."""
        right = axes.twinx()
        sizes = sorted({(row["blocks"], row["width"], row["depth"]) for row in measured})
        blocks = [size[0] for size in sizes]
        for measure, where, color in (("loss", axes, "C0"), ("mean", right, "C1")):
            means = [np.mean(values_of(measured, measure, width=w, depth=d)) for _, w, d in sizes]
            where.plot(blocks, means, "o", color=color)
            where.set_ylabel("training loss at the end" if measure == "loss" else "return", color=color)
        for count, width, depth in sizes:
            axes.annotate(f"{width}x{depth}", (count, axes.get_ylim()[0]), fontsize=8, ha="center")
        axes.set_xscale("log")
        axes.set_xlabel("numbers in the blocks (width x depth)")
