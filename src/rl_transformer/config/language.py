"""Declare the section of options for pretrained language models, as `config.sections` declares the others."""

from __future__ import annotations

from dataclasses import dataclass

from rl_transformer.config.base import Section, option


@dataclass(kw_only=True)
class LanguageConfig(Section):
    """Align tokens with word embeddings and co-train on text, with a pretrained trunk (Reid et al. 2022)."""

    # Both losses are off by default, because they need a pretrained trunk.
    alignment_weight: float = option(
        0.0, "Weight of the loss that aligns tokens with word embeddings; 0.1 in Reid et al.'s code.", at_least=0
    )
    alignment_centroids: int = option(1000, "Number of k-means centroids of the word embeddings.", above=0)
    alignment_steps: int = option(
        5_000, "Updates over which the alignment weight falls to zero along a sigmoid.", above=0
    )
    text: str | None = option(None, "Text file, or folder of *.txt, to co-train on.", not_empty=True)
    text_weight: float = option(0.0, "Weight of the language modeling loss.", at_least=0)
    text_batch_size: int = option(2, "Text sequences per update.", above=0)
    text_length: int = option(1024, "Tokens per text sequence.", above=0)
