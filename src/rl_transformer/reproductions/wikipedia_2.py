"""Does a language model's start help? Asked only of a language model that has learned language, with 16 fresh seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rl_transformer.config import RunConfig
from rl_transformer.config.presets import fast
from rl_transformer.language.held_out import HeldOutText
from rl_transformer.language.pretrain import read_report
from rl_transformer.models.huggingface.block_scale import block_scale
from rl_transformer.reproductions.experiment import JSON, Setup
from rl_transformer.reproductions.language_starts import Start, language_model, start_from
from rl_transformer.reproductions.run_cache import with_options
from rl_transformer.reproductions.starts_experiment import StartsExperiment, split_text
from rl_transformer.reproductions.starts_judging import GATE, GATE_RULE, ORDERS, Contrasts
from rl_transformer.reproductions.task_data import DATA_NOTE, TaskData
from rl_transformer.runtime.files import write_text
from rl_transformer.runtime.types import JsonMapping

STARTS: Mapping[str, Start | None] = {
    "scratch": None,
    "shuffled": ("text", "shuffled"),
    "markov": ("markov", "pretrained"),
    "text": ("text", "pretrained"),
    "reid": ("text", "pretrained"),
}
CONTRASTS = Contrasts(
    titles={
        "scratch": "from scratch",
        "shuffled": "the text model, shuffled within each matrix",
        "markov": "pretrained on a random Markov chain",
        "text": "pretrained on text",
        "reid": "pretrained on text, with the options of Reid et al.",
    },
    lead="text",
    controls=("scratch", "shuffled", "markov"),
    reference="scratch",
)
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


class Wikipedia2(StartsExperiment):
    """Starts of a policy compared by the area under the learning curve (Reid et al. 2022; Wang et al. 2024)."""

    name = "wikipedia-2"
    title = "Can Wikipedia help offline RL? Second experiment"
    question = (
        "A Decision Transformer whose blocks start from a language model, against its own random start, the same weights "
        "shuffled within each matrix, and a model of the same size that learned as many tokens of a Markov chain in the same "
        "way. Each start has the learning rate that suits it, chosen on other data and other seeds. First, the language "
        "model must have learned language: without that, nothing is tested."
    )
    contrasts: ClassVar = CONTRASTS
    rate_of: ClassVar = {"reid": "text"}
    rules: ClassVar = {
        "language model": GATE_RULE,
        "scratch": CONTRASTS.rule("a random start", "scratch"),
        "shuffled": CONTRASTS.rule("its weights shuffled", "scratch"),
        "markov": CONTRASTS.rule("a Markov chain", "scratch"),
    }
    seeds = 16
    enough_seeds = 16
    differs = (
        "In the committed run the language model does not meet the first condition. So no policy was trained, and nothing was compared.",
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
        "What happens after more updates. (For a model that saw much more text see the page `wikipedia-3`.)",
        "Whether policies that start from text use past actions more: that was not measured.",
        "The language model was trained twice, at earlier code and on another machine too: with one seed, and to the same last digit.",
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

    def language_model(self, kind: str, setup: Setup) -> Path:
        """Pretrain a language model once, and return its run folder."""
        train, _ = split_text(setup)
        options = self.recipe(setup)["language_models"][kind]
        path = setup.runs / "data" / f"text-{hashlib.sha256(train.encode()).hexdigest()[:16]}.txt"
        if kind == "text" and not path.exists():
            write_text(path, train)
        identity = json.dumps([options, path.name if kind == "text" else ""], sort_keys=True)
        name = f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        return language_model(kind, name, options, path, setup)

    def run_config(self, arm: str, rate: float, setup: Setup) -> RunConfig:
        """Return the options of an arm's policy."""
        recipe = self.recipe(setup)
        options: JsonMapping = {**recipe["policy"], **(recipe["reid"] if arm == "reid" else {})}
        config = with_options(fast(), {**options, "training.learning_rate": rate})
        start = STARTS[arm]
        if start is not None:
            start_from(config, self.language_model(start[0], setup), start[1])
        return config

    def measure_language(self, kind: str, setup: Setup) -> JSON:
        """Return how much the blocks add to tokens, and the bits per byte of the text model."""
        folder = self.language_model(kind, setup)
        scales = {weights: block_scale(str(folder), weights) for weights in ("pretrained", "shuffled", "random")}
        if kind != "text":
            return {"block_scale": scales, "report": read_report(folder)}
        train, held_out = split_text(setup)
        text = HeldOutText(str(folder), held_out)
        return {
            "bits_per_byte": {str(context): text.bits_per_byte(context) for context in (GATE["short"], GATE["long"])},
            "shuffled_bits_per_byte": text.bits_per_byte(GATE["long"], "shuffled"),
            "kneser_ney": {str(order): text.kneser_ney_bits_per_byte(train, order) for order in ORDERS},
            "block_scale": scales,
        }
