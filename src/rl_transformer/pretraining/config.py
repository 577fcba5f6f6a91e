"""What determines the pretraining of a language model, as plain values. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rl_transformer.config import Sections, TrainingConfig
from rl_transformer.config_checks import numbers_out_of_range
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
        for option, problem, fix in (*numbers_out_of_range(self), *self._too_small()):
            raise RLTransformerError(problem, where=option, fix=fix)
        if not self.dataset.uri:
            raise RLTransformerError("no text is named", where="dataset.uri", fix="pass --data FILE or FOLDER")
        if not self.output:
            raise RLTransformerError("no run folder is named", where="output", fix="pass --output DIR")
        unused = ("trunk", "lora_rank", "trunk_learning_rate", "trunk_weight_decay", "entropy_weight")
        for name in unused:
            if getattr(self.training, name) != getattr(TrainingConfig(), name):
                raise RLTransformerError(
                    "has no effect on a language model", where=f"training.{name}", fix="leave it out"
                )

    def _too_small(self) -> Iterator[tuple[str, str, str]]:
        for name, least in {"length": 2, "states": 2, "vocabulary": 257}.items():
            if (value := getattr(self.dataset, name, least)) < least:
                yield f"dataset.{name}", f"{value} is below {least}", f"give {least} or more"


@dataclass(kw_only=True)
class SyntheticPretrainConfig(PretrainConfig):
    """The same on random sequences."""

    dataset: SyntheticConfig = field(default_factory=SyntheticConfig)  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(kw_only=True)
class TextPretrainConfig(PretrainConfig):
    """The same on text."""

    dataset: TextConfig = field(default_factory=TextConfig)  # pyright: ignore[reportIncompatibleVariableOverride]


KINDS: dict[str, type[PretrainConfig]] = {"text": TextPretrainConfig, "synthetic": SyntheticPretrainConfig}
