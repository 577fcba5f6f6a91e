"""Can Wikipedia help? A language model as the start, against the controls that make the answer believable."""

from __future__ import annotations

import hashlib
import pydoc_data.topics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rl_transformer.evaluation import plots
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, with_options, locked, returns_at, cached_run
from rl_transformer.reproductions.task_data import DATA_NOTE, EVIDENCE_NOTE, Control, target_of, format_difference
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, pick, values_of
from rl_transformer.runtime.files import write_text
from rl_transformer.policy import load_policy
from rl_transformer.config.presets import fast
from rl_transformer.language.config import KINDS, TextConfig
from rl_transformer.language.language_model import pretrain
from rl_transformer.language.text import read_text
from rl_transformer.training.metrics import read_metrics

# Arm -> the language model it starts from, and with which of its weights.
STARTS: Mapping[str, tuple[str, str] | None] = {
    "scratch": None,
    "random": ("text", "random"),
    "shuffled": ("text", "shuffled"),
    "iid": ("iid", "pretrained"),
    "markov": ("markov", "pretrained"),
    "text": ("text", "pretrained"),
}
TITLES = {
    "scratch": "from scratch, our initial weights",
    "random": "from scratch, the language model's initial weights",
    "shuffled": "the text model, shuffled within each matrix",
    "iid": "pretrained on independent random tokens",
    "markov": "pretrained on a random Markov chain",
    "text": "pretrained on text",
}
_LANGUAGE = {
    "text": {
        "dataset.vocabulary": 4000,
        "training.learning_rate": 2e-3,
        "model.dropout": 0.2,
        "training.batch_size": 32,
    },
    "markov": {"dataset.uri": "markov"},
    "iid": {"dataset.uri": "iid"},
}
_LANGUAGE_FULL = {"training.train_steps": 1_000, "training.precision": "bfloat16"}
_LANGUAGE_QUICK = {
    "training.train_steps": 40, "training.batch_size": 8, "training.warmup_steps": 5, "dataset.length": 32,
    "model.hidden_size": 32, "model.n_layer": 2,
}  # fmt: skip
_POLICY = {
    "model.condition_entry": "token", "windows.context_length": 10, "training.batch_size": 64,
    "training.learning_rate": 5e-4, "training.warmup_steps": 100, "training.average_decay": 0.99,
}  # fmt: skip
_POLICY_FULL = {**_POLICY, "training.train_steps": 2_500, "training.precision": "bfloat16"}
_POLICY_QUICK = {**_POLICY, "training.train_steps": 120, "model.hidden_size": 32, "model.n_layer": 2}
_POINTS = 10
_SHARE = 0.9


class Wikipedia(Experiment):
    """Starts compared at equal updates (Reid et al. 2022; Wang et al. 2024; Takagi 2022)."""

    name = "wikipedia"
    title = "Can Wikipedia help offline RL?"
    question = (
        "A Decision Transformer whose blocks start from a language model, at equal updates against: its own random start; the "
        "random start of the language model's architecture; the same pretrained numbers shuffled within each matrix; and models "
        "of the same size pretrained on sequences that hold no language at all. Each rule below is a claim that is made for "
        "language models here; where the data does not bear one out, it is marked as failing."
    )
    rules: ClassVar = {
        "better": "the text start ends with a better score than scratch: the 95 % interval of the paired difference is above 0",
        "faster": "it needs fewer updates to 90 % of its own final score: the interval of the paired difference is below 0",
        "language": "it is language that helps: the text start ends better than shuffled, Markov and independent tokens, each "
        "interval above 0",
    }
    unit = "return"
    seeds = 8
    enough_seeds = 8
    takes_data = True
    takes_text = True
    differs = (
        DATA_NOTE,
        "The language model has ChibiT's sizes (3 layers, 1 head, width 128), and learned from a small text for minutes; "
        "ChibiT learned from Wikitext-103 (recalled, not checked). Without `--text` the text is the reference of the Python language that comes with it.",
        "No alignment, no text beside, no tied head: the start alone is compared, as in Wang et al. (2024).",
        "Context 10 instead of 20 and 2,500 updates at 5e-4 instead of 100,000 at 1e-4.",
        "One language model an arm. The seeds are of fine-tuning, and of the controls' random numbers.",
    )
    unknown = (
        "What a model that saw much more text, or a larger one, would give; and what happens after more updates.",
        "Three rules are tested, one of them against three controls, without correction for that.",
        EVIDENCE_NOTE,
    )

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The starts, the language models and the fine-tuning."""
        size = _LANGUAGE_QUICK if setup.quick else _LANGUAGE_FULL
        return {
            "env_id": Control.of(setup).env_id,
            "episodes": {"curve": 4 if setup.quick else 10, "final": 10 if setup.quick else 50},
            "points": _POINTS // 2 if setup.quick else _POINTS,
            "starts": STARTS,
            "language_models": {kind: {**options, **size} for kind, options in _LANGUAGE.items()},
            "policy": _POLICY_QUICK if setup.quick else _POLICY_FULL,
        }

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make or open the data and the text."""
        found = Control.of(setup).prepare()
        return {**found, "text": self._text_hash(setup)}

    def _text(self, setup: Setup) -> Path:
        if setup.text is not None:
            return Path(setup.text)
        path = setup.runs / "data" / "python-reference.txt"
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                topics = pydoc_data.topics.topics
                write_text(path, "\n".join(topics[name] for name in sorted(topics)))
        return path

    def _text_hash(self, setup: Setup) -> str:
        return hashlib.sha256(read_text(self._text(setup)).encode()).hexdigest()

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy a start and seed."""
        return [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in STARTS]

    def language_model(self, kind: str, setup: Setup) -> Path:
        """Pretrain a language model once, on one thread, and return its run folder."""
        config = with_options(
            KINDS["text" if kind == "text" else "synthetic"](), self.recipe(setup)["language_models"][kind]
        )
        config.training.threads = 1
        if isinstance(config.dataset, TextConfig):
            config.dataset.uri = str(self._text(setup))
            kind = f"{kind}-{self._text_hash(setup)[:8]}"
        folder = setup.runs / "language" / f"{'quick-' if setup.quick else ''}{kind}"
        config.output = str(folder)
        with locked(folder.with_suffix(".lock")):
            return pretrain(config, resume=True)

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The learning curve, the final score and the loss."""
        recipe, control, start = self.recipe(setup), Control.of(setup), STARTS[cell["arm"]]
        dataset = control.dataset()
        largest = float(dataset.episode_returns.max())
        config = with_options(fast(), {**recipe["policy"], "training.seed": cell["seed"]})
        if start is not None:
            config.model.trunk, config.model.trunk_weights = str(self.language_model(start[0], setup)), start[1]  # pyright: ignore
        config.dataset.uri = control.uri
        config.evaluation.env_id, config.evaluation.target_returns = control.env_id, [largest]
        config.evaluation.every = config.training.train_steps // recipe["points"]
        config.evaluation.num_episodes, config.evaluation.seed = recipe["episodes"]["curve"], 2 * EVALUATION_SEED
        run = cached_run(config, setup, dataset)
        rows = read_metrics(run)
        curve = [[row["step"], row[name]] for row in rows for name in row if name.startswith("return_at_")]
        losses = [row["loss"] for row in rows if "loss" in row]
        parts = np.array_split(losses, 2 * recipe["points"])
        earned = returns_at(load_policy(run), control.env_id, [largest], recipe["episodes"]["final"])[0]
        return {
            "mean": float(np.mean(earned)),
            "curve": curve,
            "losses": [float(part.mean()) for part in parts],
            "largest": largest,
        }

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Final scores, updates to 90 % of them, and losses; differences seed by seed."""
        final = {arm: over_seeds(values_of(measured, "mean", arm=arm)) for arm in STARTS}
        needed = {arm: over_seeds([self._updates(row) for row in pick(measured, arm=arm)]) for arm in STARTS}
        losses = {arm: over_seeds([row["losses"][-1] for row in pick(measured, arm=arm)]) for arm in STARTS}
        gaps = {arm: self._gap(final, arm) for arm in STARTS if arm != "text"}
        sooner = {arm: self._gap(needed, arm) for arm in STARTS if arm != "text"}
        rows = [Row(f"{TITLES[arm]}: final", final[arm]) for arm in STARTS]
        rows += [Row(f"{TITLES[arm]}: to 90 %", needed[arm], unit="updates") for arm in STARTS]
        rows += [Row(f"{TITLES[arm]}: loss", losses[arm], unit="loss") for arm in STARTS]
        unsaid = gaps["scratch"]["interval"] is None
        controls = ("shuffled", "markov", "iid")
        told = "; ".join(f"{arm}: {format_difference(gaps[arm])}" for arm in controls)
        checks: dict[str, tuple[bool | None, str]] = {
            "better": (None if unsaid else gaps["scratch"]["interval"][0] > 0, format_difference(gaps["scratch"])),
            "faster": (None if unsaid else sooner["scratch"]["interval"][1] < 0, format_difference(sooner["scratch"])),
            "language": (None if unsaid else all(gaps[arm]["interval"][0] > 0 for arm in controls), told),
        }
        return Summary(rows, checks, {"text_minus": gaps, "updates_text_minus": sooner})

    @staticmethod
    def _gap(scores: Mapping[str, dict[str, Any]], arm: str) -> dict[str, Any]:
        return over_seeds(np.subtract(scores["text"]["values"], scores[arm]["values"]).tolist())

    @staticmethod
    def _updates(row: Mapping[str, Any]) -> int:
        """Return the first evaluation at 90 % of the last policy's score; the end if there is none."""
        wanted = row["mean"] - (1 - _SHARE) * abs(row["mean"])  # returns may be negative
        enough = [step for step, value in row["curve"] if value >= wanted]
        return enough[0] if enough else row["curve"][-1][0]

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """Learning curves, the mean over seeds."""
        for index, arm in enumerate(STARTS):
            curves = np.array([row["curve"] for row in pick(measured, arm=arm)])
            color = plots.ACCENT if arm == "text" else f"C{index}"
            axes.plot(curves[0, :, 0], curves[:, :, 1].mean(0), marker=".", color=color, label=TITLES[arm])
        axes.set_xlabel("updates")
        axes.set_ylabel(f"return when asked for {target_of(measured):.4g}, mean over seeds")
        axes.legend(frameon=False, fontsize=8)
