"""Declare the configuration of language model pretraining, as plain values. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rl_transformer.config import ConfigBase, TrainingConfig
from rl_transformer.config.base import Problem, Section, option
from rl_transformer.config.migrations import migrate_run_config
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

# Options of a policy's training that have no effect on a language model. TrainingConfig is shared, so they exist here,
# too, and setting one has to be an error.
_UNUSED = ("trunk", "lora_rank", "trunk_learning_rate", "trunk_weight_decay", "entropy_weight", "image_shift")


@dataclass(kw_only=True)
class TextConfig(Section):
    """Select the text to learn from."""

    uri: str = option("", "Text file, or folder of *.txt.", common=True)
    held_out: str | None = option(None, "Text file, or folder of *.txt, to measure perplexity on.", common=True)
    # 256 bytes and the end-of-text token are always in the vocabulary.
    vocabulary: int = option(
        4_000, "Tokens of the byte-level BPE vocabulary that is learned from the text.", at_least=257, common=True
    )
    length: int = option(128, "Tokens per sequence, and rows of the position table.", at_least=2, common=True)


@dataclass(kw_only=True)
class SyntheticConfig(Section):
    """Select the random sequences to learn from (Wang et al. 2024); nothing has to be downloaded."""

    uri: Literal["markov", "iid"] = option(
        "markov",
        "markov: every state has its own random distribution of next states; iid: uniform states, the control.",
        common=True,
    )
    # The defaults are those of Wang et al., except for the length, which fits a small GPT-2.
    states: int = option(100, "Number of states.", at_least=2, common=True)
    temperature: float = option(
        1.0, "Softmax temperature of the transition distributions; small values are nearly deterministic.", above=0
    )
    length: int = option(
        128, "States per sequence, and rows of the position table; 1,024 as published.", at_least=2, common=True
    )
    chain_seed: int = option(666, "Seed of the transition distributions.", at_least=0)


@dataclass(kw_only=True)
class LanguageModelConfig(Section):
    """Set the sizes of the GPT-2 to train; the defaults are those of ChibiT (Reid et al. 2022)."""

    # A Decision Transformer of the published Gym size has the same width, layers and heads, so it can start from these
    # weights without any change to its own sizes.
    hidden_size: int = option(128, "Width of a token.", above=0, common=True)
    n_layer: int = option(3, "Transformer blocks.", above=0, common=True)
    n_head: int = option(1, "Attention heads.", above=0, common=True)
    activation_function: Literal["relu", "gelu", "gelu_new", "silu", "tanh"] = option(
        "relu", "Activation of a block's MLP."
    )
    dropout: float = option(0.1, "Dropout on embeddings, attention weights and residual branches.", at_least=0, below=1)


def _training() -> TrainingConfig:
    """Return our own defaults for small language models, which take minutes to train on a CPU."""
    return TrainingConfig(
        train_steps=2_000,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=200,
        schedule="cosine",
        weight_decay=1e-2,
        decay="matrices",
        max_gradient_norm=1.0,
        checkpoint_every=500,
    )


@dataclass(kw_only=True, repr=False)
class PretrainConfig(ConfigBase):
    """Holds the sections that text and synthetic pretraining share."""

    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    training: TrainingConfig = field(default_factory=_training)

    @classmethod
    def migrate(cls, values: JsonMapping) -> JsonObject:
        """Return values that an earlier version wrote, with the current names of options."""
        return migrate_run_config(values)

    @property
    def why_not_longer(self) -> str | None:
        """Reason why more updates would make another run than one of that length from the start: there is none."""
        return None

    def check(self) -> None:
        """Raise an `RLTransformerError` that names the first option whose value cannot work."""
        self.check_values()
        for name, problem, fix in self.contradictions():
            raise RLTransformerError(problem, where=name, fix=fix)

    def contradictions(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for every contradiction between options."""
        if not self.output:
            yield "output", "no run folder is named", "pass --output DIR"
        defaults = TrainingConfig()
        for name in _UNUSED:
            if getattr(self.training, name) != getattr(defaults, name):
                yield f"training.{name}", "has no effect on a language model", "leave it out"


@dataclass(kw_only=True, repr=False)
class TextPretrainConfig(PretrainConfig):
    """Holds the options of pretraining on text."""

    dataset: TextConfig = field(default_factory=TextConfig)

    def contradictions(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for every contradiction between options."""
        if not self.dataset.uri:
            yield "dataset.uri", "no text is named", "pass --data FILE or FOLDER"
        yield from super().contradictions()


@dataclass(kw_only=True, repr=False)
class SyntheticPretrainConfig(PretrainConfig):
    """Holds the options of pretraining on random sequences."""

    dataset: SyntheticConfig = field(default_factory=SyntheticConfig)


KINDS: dict[str, type[TextPretrainConfig] | type[SyntheticPretrainConfig]] = {
    "text": TextPretrainConfig,
    "synthetic": SyntheticPretrainConfig,
}
"""Configuration class per kind of pretraining, by its name on the command line."""
