"""Does a language model's start help? Asked only of a language model that has learned language, with 16 fresh seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.config.presets import fast
from rl_transformer.language.held_out import HeldOutText
from rl_transformer.language.pretrain import read_report
from rl_transformer.language.text import read_text
from rl_transformer.models.huggingface.block_scale import block_scale
from rl_transformer.reproductions.cells import cell_file
from rl_transformer.reproductions.experiment import JSON, Cell, Experiment, Measured, Setup, Summary, pick
from rl_transformer.reproductions.language_starts import (
    Start,
    language_model,
    read_curve,
    record_curve,
    start_from,
    text_file,
    text_hash,
)
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, cached_run, with_options
from rl_transformer.reproductions.task_data import DATA_NOTE, TaskData, target_of
from rl_transformer.reproductions.wikipedia_2_judging import (
    CONTROLS,
    GATE,
    ORDERS,
    RELEVANT_SHARE,
    TITLES,
    area_of,
    is_testable,
    judge,
)
from rl_transformer.runtime.files import write_text
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STARTS: Mapping[str, Start | None] = {
    "scratch": None,
    "shuffled": ("text", "shuffled"),
    "markov": ("markov", "pretrained"),
    "text": ("text", "pretrained"),
    "reid": ("text", "pretrained"),
}
TUNED = ("scratch", "shuffled", "markov", "text")
"""The arms that choose a learning rate each; the arm of Reid et al. takes that of text."""
_LANGUAGE = {
    "training.train_steps": 4_000, "training.batch_size": 32, "training.learning_rate": 2e-3,
    "training.weight_decay": 0.5, "training.decay": "all", "training.ema_decay": 0.99, "training.precision": "bfloat16",
    "model.dropout": 0.2, "dataset.length": 128,
}  # fmt: skip
_LANGUAGE_QUICK = {
    **_LANGUAGE, "training.train_steps": 30, "training.batch_size": 8, "training.warmup_steps": 5,
    "model.hidden_size": 32, "model.n_layer": 2,
}  # fmt: skip
_POLICY = {
    "model.condition_entry": "token", "windows.context_length": 10, "training.batch_size": 64,
    "training.schedule": "constant", "training.warmup_steps": 100, "training.ema_decay": 0.99,
    "dataset.validation_fraction": 0.05,
}  # fmt: skip
_POLICY_FULL = {**_POLICY, "training.train_steps": 2_000, "training.precision": "bfloat16"}
_POLICY_QUICK = {**_POLICY, "training.train_steps": 50, "model.hidden_size": 32, "model.n_layer": 2}
_REID = {
    "model.positions": "timesteps", "model.tie_action_head": True, "model.timestep_embedding": "after_norm",
    "model.resid_pdrop": 0.2, "model.attn_pdrop": 0.1, "model.embd_pdrop": 0.1, "language.alignment_weight": 0.1,
}  # fmt: skip
_FIRST_SEED = 1_000  # of the arms that are judged; rates are chosen with the seeds from 0 on


class Wikipedia2(Experiment):
    """Starts of a policy compared by the area under the learning curve (Reid et al. 2022; Wang et al. 2024)."""

    name = "wikipedia-2"
    title = "Can Wikipedia help offline RL? Second experiment"
    question = (
        "A Decision Transformer whose blocks start from a language model, against its own random start, the same weights "
        "shuffled within each matrix, and a model of the same size that learned as many tokens of a Markov chain in the same "
        "way. Each start has the learning rate that suits it, chosen on other data and other seeds. First, the language "
        "model must have learned language: without that, nothing is tested."
    )
    rules: ClassVar = {
        "language model": f"on held-out text it needs fewer bits per byte than Kneser-Ney, and with a context of {GATE['long']} "
        f"tokens {GATE['gain']} bits per byte fewer than with {GATE['short']}; otherwise nothing below is testable",
        **{
            name: f"text helps more than {what}: its area under the learning curve is larger (paired by seed, p < 0.05 after "
            f"Holm's correction for the three contrasts), and the 95 % interval of the difference does not lie within "
            f"{100 * RELEVANT_SHARE:.0f} % of the area of scratch, which would be no relevant effect, and fails; else open"
            for name, what in (
                ("scratch", "a random start"),
                ("shuffled", "its weights shuffled"),
                ("markov", "a Markov chain"),
            )
        },
    }
    unit = "return"
    seeds = 16
    enough_seeds = 16
    takes_data = True
    takes_text = True
    takes_tuning_data = True
    differs = (
        DATA_NOTE,
        "The language model has ChibiT's sizes (3 layers, 1 head, width 128), and learned from a small text for minutes. The last "
        "tenth of the text is held out. Without `--text` the text is the reference of the Python language that comes with it.",
        "Context 10 instead of 20, and 2,000 updates at a constant rate after the warm-up, with an EMA of the weights.",
        "The arm of Reid et al. has the language model's positions as timesteps (repeated after 128; theirs has 1,024), a tied "
        "action head, alignment (weight 0.1, which falls over half of the updates; theirs over 5,000 of 100,000), dropout 0.2 "
        "(attention 0.1), and timesteps added after the layer norm. It has no co-training on text, which is code of its own "
        "there. Its rate is that of text, and it is described, not judged.",
        "One language model per kind: the seeds are of fine-tuning and shuffling. Optimizer, tokens, and regularization are the "
        "same for text and Markov chain; Wang et al. use another recipe for the latter.",
        "One other recipe of the language model was tried before on the same texts (2,000 updates, 8,000 tokens, weight decay 1.0): "
        "1.850 bits per byte, 1.917 with a context of 2, where Kneser-Ney has 1.835, so nothing would have been testable. No "
        "policy was trained from it. The second recipe was chosen after that, on the same held-out text: a smaller vocabulary, because "
        "two tokens then hold less text and context is easier to gain from; and Kneser-Ney of orders 3 to 5 instead of 2 to 4, which "
        "only makes the first condition harder.",
        "Five hundredths of the episodes are held out, for the action error.",
    )
    unknown = (
        "What a model that saw much more text, or a larger one, would give; and what happens after more updates.",
        "Whether policies that start from text use past actions more: that was not measured.",
    )

    def recipe(self, setup: Setup) -> JSON:
        """Return the starts, the language models and the fine-tuning."""
        quick = setup.quick
        language = _LANGUAGE_QUICK if quick else _LANGUAGE
        policy = _POLICY_QUICK if quick else _POLICY_FULL
        alignment = {
            "language.alignment_steps": policy["training.train_steps"] // 2,
            "language.alignment_centroids": 50 if quick else 1_000,
        }
        return {
            "env_id": TaskData.from_setup(setup).env_id,
            "episodes": {"tuning": 4, "curve": 4} if quick else {"tuning": 15, "curve": 30},
            "points": 5 if quick else 10,
            "starts": STARTS,
            "rates": [1e-3] if quick else [3e-4, 1e-3, 3e-3],
            "tuning_seeds": 1 if quick else 2,
            "language_models": {
                "text": {**language, "dataset.vocabulary": 400 if quick else 2_000},
                "markov": {**language, "dataset.uri": "markov"},
            },
            "policy": policy,
            "reid": {**_REID, **alignment},
        }

    def prepare(self, setup: Setup) -> JSON:
        """Make or open the data and the text."""
        tuning = _tuning(setup).prepare()["fingerprint"]
        return {**TaskData.from_setup(setup).prepare(), "tuning": tuning, "text": text_hash(setup)}

    def cells(self, setup: Setup) -> list[Cell]:
        """Return the language models, then one policy per rate, arm and seed, then one per arm and fresh seed."""
        recipe = self.recipe(setup)
        models = [{"arm": "language", "kind": kind} for kind in recipe["language_models"]]
        seeds = range(recipe["tuning_seeds"])
        choice = [{"arm": arm, "rate": r, "seed": s} for s in seeds for r in recipe["rates"] for arm in TUNED]
        return [*models, *choice, *[{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in STARTS]]

    def language_model(self, kind: str, setup: Setup) -> Path:
        """Pretrain a language model once, and return its run folder."""
        train, _ = _split_text(setup)
        options = self.recipe(setup)["language_models"][kind]
        path = setup.runs / "data" / f"text-{hashlib.sha256(train.encode()).hexdigest()[:16]}.txt"
        if kind == "text" and not path.exists():
            write_text(path, train)
        identity = json.dumps([options, path.name if kind == "text" else ""], sort_keys=True)
        name = f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        return language_model(kind, name, options, path, setup)

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return a language model's bits per byte, or the learning curve of a policy."""
        if cell.get("kind") == "text":
            return self._measure_language("text", setup)
        # Nothing else is worth its hours if the language model has not learned language.
        if not setup.quick and not is_testable(self._measured({"arm": "language", "kind": "text"}, setup)):
            return {"skipped": True}
        if cell["arm"] == "language":
            return self._measure_language(cell["kind"], setup)
        is_choice = "rate" in cell
        rate = cell["rate"] if is_choice else self.chosen_rates(setup)[cell["arm"]]
        data = _tuning(setup) if is_choice else TaskData.from_setup(setup)
        dataset = data.dataset()
        largest = float(dataset.episode_returns.max())
        config = self._run_config(cell["arm"], rate, setup)
        config.training.seed = cell["seed"] + (0 if is_choice else _FIRST_SEED)
        recipe = self.recipe(setup)
        episodes = recipe["episodes"]["tuning" if is_choice else "curve"]
        record_curve(config, data, largest, points=recipe["points"], episodes=episodes)
        config.evaluation.seed = (3 if is_choice else 2) * EVALUATION_SEED
        rows = read_metrics(cached_run(config, setup, dataset))
        return {
            "learning_rate": rate,
            "curve": read_curve(rows),
            "action_error": [row["validation_action_error"] for row in rows if "validation_action_error" in row][-1],
            "largest": largest,
        }

    def _run_config(self, arm: str, rate: float, setup: Setup) -> RunConfig:
        recipe = self.recipe(setup)
        options: JsonMapping = {**recipe["policy"], **(recipe["reid"] if arm == "reid" else {})}
        config = with_options(fast(), {**options, "training.learning_rate": rate})
        start = STARTS[arm]
        if start is not None:
            start_from(config, self.language_model(start[0], setup), start[1])
        return config

    def _measure_language(self, kind: str, setup: Setup) -> JSON:
        folder = self.language_model(kind, setup)
        scales = {weights: block_scale(str(folder), weights) for weights in ("pretrained", "shuffled", "random")}
        if kind != "text":
            return {"block_scale": scales, "report": read_report(folder)}
        train, held_out = _split_text(setup)
        text = HeldOutText(str(folder), held_out)
        return {
            "bits_per_byte": {str(context): text.bits_per_byte(context) for context in (GATE["short"], GATE["long"])},
            "shuffled_bits_per_byte": text.bits_per_byte(GATE["long"], "shuffled"),
            "kneser_ney": {str(order): text.kneser_ney_bits_per_byte(train, order) for order in ORDERS},
            "block_scale": scales,
        }

    def chosen_rates(self, setup: Setup) -> dict[str, float]:
        """Return for each arm the learning rate with the largest mean area on the tuning data."""
        recipe = self.recipe(setup)
        chosen = {}
        for arm in TUNED:
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
        return {**chosen, "reid": chosen["text"]}

    def _measured(self, cell: Cell, setup: Setup) -> JSON:
        """Return a cell's measures: from its file, or, where it is being measured elsewhere, after its training."""
        path = cell_file(setup, cell)
        return read_json(path, fix="delete this file and repeat") if path.exists() else self.measure(cell, setup)

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Judge the gate, then the three contrasts of areas."""
        return judge(measured)

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw learning curves, the mean over seeds."""
        if any("skipped" in row for row in measured):
            axes.set_title("not testable: no policy was trained")
            return
        for index, arm in enumerate(TITLES):
            curves = np.array([row["curve"] for row in pick(measured, arm=arm, rate=None)])
            width = 1.5 if arm in (*CONTROLS, "text") else 0.8
            axes.plot(curves[0, :, 0], curves[:, :, 1].mean(0), ".-", color=f"C{index}", lw=width, label=TITLES[arm])
        axes.axhline(summary.figures["threshold"], color="0.7", lw=0.8)
        axes.set_xlabel("updates")
        axes.set_ylabel(f"return with target {target_of(pick(measured, rate=None)):.4g}, mean over seeds")
        axes.legend(frameon=False, fontsize=8)


def _tuning(setup: Setup) -> TaskData:
    """Return the data on which learning rates are chosen."""
    return TaskData.from_setup(replace(setup, data=setup.tuning_data or setup.data))


def _split_text(setup: Setup) -> tuple[str, str]:
    """Return the text to learn from and its last tenth, which is held out; the cut is at a line break if there is one."""
    text = read_text(text_file(setup))
    cut = text.find("\n", len(text) * 9 // 10) + 1 or len(text) * 9 // 10
    return text[:cut], text[cut:]
