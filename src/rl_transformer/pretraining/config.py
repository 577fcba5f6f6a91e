"""What determines the pretraining of a language model, as plain values. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rl_transformer.config import Sections, TrainingConfig
from rl_transformer.errors import RLTransformerError


@dataclass(kw_only=True)
class TextConfig:
    """Which text to learn from."""

    uri: str = ""
    """Text file, or folder of *.txt."""
    held_out: str | None = None
    """Text to measure on, by the same rule."""
    vocabulary: int = 4_000
    """Tokens of the byte-level BPE vocabulary that is made from the text."""
    length: int = 128
    """Tokens of a piece, and of the position table."""


@dataclass(kw_only=True)
class SyntheticConfig:
    """Which random sequences to learn from (Wang et al. 2024); nothing to download."""

    uri: Literal["markov", "iid"] = "markov"
    """markov: each state draws the next from its own random distribution; iid: uniform states, the control."""
    states: int = 100
    """Number of states."""
    temperature: float = 1.0
    """Of the softmax that makes a distribution of uniform numbers; small: nearly deterministic chains."""
    length: int = 128
    """States of a sequence, and of the position table; 1,024 as published."""
    chain_seed: int = 666
    """Seed of the distributions."""


@dataclass(kw_only=True)
class LanguageModelConfig:
    """Which GPT-2; the defaults are ChibiT's sizes (Reid et al. 2022)."""

    hidden_size: int = 128
    """Width."""
    n_layer: int = 3
    """Blocks."""
    n_head: int = 1
    """Attention heads."""
    activation_function: Literal["relu", "gelu", "gelu_new", "silu", "tanh"] = "relu"
    """Non-linearity inside a block's MLP."""
    dropout: float = 0.1
    """At all three sites."""


def _training() -> TrainingConfig:
    training = TrainingConfig(train_steps=2_000, batch_size=64, learning_rate=1e-3, warmup_steps=200, schedule="cosine")
    training.weight_decay, training.decay, training.max_gradient_norm = 1e-2, "matrices", 1.0
    training.checkpoint_every = 500
    return training


@dataclass(kw_only=True)
class PretrainConfig(Sections):
    """Everything that determines the pretraining of a language model."""

    dataset: TextConfig | SyntheticConfig = field(default_factory=TextConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    training: TrainingConfig = field(default_factory=_training)

    def check(self) -> None:
        """Refuse values that cannot work, naming the option."""
        self.check_types()
        d, m, t = self.dataset, self.model, self.training
        least = {
            "dataset.length": (d.length, 2), "model.hidden_size": (m.hidden_size, 1), "model.n_layer": (m.n_layer, 1),
            "model.n_head": (m.n_head, 1), "training.train_steps": (t.train_steps, 1), "training.batch_size": (t.batch_size, 1),
            "training.checkpoint_every": (t.checkpoint_every, 1), "training.keep_checkpoints": (t.keep_checkpoints, 1),
            "training.warmup_steps": (t.warmup_steps, 0), "training.seed": (t.seed, 0),
        }  # fmt: skip
        if isinstance(d, TextConfig):
            least["dataset.vocabulary"] = (d.vocabulary, 257)
            if not d.uri:
                raise RLTransformerError("no text is named", where="dataset.uri", fix="pass --data FILE or FOLDER")
        else:
            least["dataset.states"] = (d.states, 2)
            if not d.temperature > 0:
                raise RLTransformerError(
                    f"{d.temperature} is not positive", where="dataset.temperature", fix="give 1.0"
                )
        for option, (value, smallest) in least.items():
            if value < smallest:
                raise RLTransformerError(f"{value} is below {smallest}", where=option, fix=f"give {smallest} or more")
        if not self.output:
            raise RLTransformerError("no run folder is named", where="output", fix="pass --output DIR")
        unused = ("trunk", "lora_rank", "trunk_learning_rate", "trunk_weight_decay", "entropy_weight")
        for name in unused:
            if getattr(t, name) != getattr(TrainingConfig(), name):
                raise RLTransformerError(
                    "has no effect on a language model", where=f"training.{name}", fix="leave it out"
                )


@dataclass(kw_only=True)
class SyntheticPretrainConfig(PretrainConfig):
    """The same on random sequences."""

    dataset: SyntheticConfig = field(default_factory=SyntheticConfig)  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(kw_only=True)
class TextPretrainConfig(PretrainConfig):
    """The same on text."""

    dataset: TextConfig = field(default_factory=TextConfig)  # pyright: ignore[reportIncompatibleVariableOverride]


KINDS: dict[str, type[PretrainConfig]] = {"text": TextPretrainConfig, "synthetic": SyntheticPretrainConfig}
