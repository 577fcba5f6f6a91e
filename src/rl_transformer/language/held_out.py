"""Measure a language model on text that it has not seen, in bits per byte.

Bits per byte do not depend on the vocabulary, so models with different tokenizers, and n-gram models, can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.language.kneser_ney import KneserNey
from rl_transformer.language.language_model import total_nll
from rl_transformer.language.text import tokenized
from rl_transformer.models.huggingface.source import TrunkSource, load_tokenizer

_TOKENS_AT_ONCE = 1024  # a large vocabulary times this many tokens is what the output layer holds in memory


class TransformersLanguageModel(nn.Module):
    """A causal language model of transformers, as `total_nll` measures it.

    Args:
        model: The model with its output layer.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def token_nlls(self, sequences: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats) of each token after the first: (B, L) -> (B, L - 1)."""
        logits = cast(Any, self.model)(input_ids=sequences[:, :-1], use_cache=False).logits.float()
        nlls = F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), reduction="none")
        return nlls.view(len(sequences), -1)


@dataclass(frozen=True)
class HeldOutText:
    """A language model with a text to measure it on.

    Args:
        name: Folder of a language model, a run of `rlt pretrain text`, or a Hub id.
        text: Text that the model has not seen.
    """

    name: str
    text: str

    def bits_per_byte(self, context: int, weights: str = "pretrained", seed: int = 0) -> float:
        """Return the bits that the model needs for a byte of the text.

        Args:
            context: Tokens that the model sees at most, 2 or more.
            weights: pretrained, random or shuffled, as ``model.trunk_weights``.
            seed: Seed of random and shuffled weights.

        Raises:
            RLTransformerError: The model cannot be loaded, lacks weights, or is not made for so many tokens.
        """
        source = TrunkSource.from_name(self.name)
        longest = getattr(source.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if context < 2 or (longest is not None and context > longest):
            raise RLTransformerError(
                f"{context} tokens of context, and the model takes 2 to {longest}",
                where=self.name,
                fix="give a context within these bounds",
            )
        loaded = source.load(weights, seed, head=True)
        absent = sorted(getattr(loaded, "absent_weights", ()))
        if absent:
            # transformers fills them with random numbers, and the figure would be that of another model.
            raise RLTransformerError(
                f"the file lacks {absent[0]}", where=self.name, fix="name a complete language model"
            )
        model = TransformersLanguageModel(loaded)
        at_once = max(1, _TOKENS_AT_ONCE // context)
        return self._per_byte(total_nll(model, self._tokens(self.text), context, at_once=at_once))

    def kneser_ney_bits_per_byte(self, train: str, order: int) -> float:
        """Return the bits per byte of an n-gram model over the same tokens, which has learned from the text ``train``."""
        model = KneserNey(self._tokens(train).tolist(), order, load_tokenizer(self.name).get_vocab_size())
        return self._per_byte(model.surprise(self._tokens(self.text).tolist()))

    def _tokens(self, text: str) -> np.ndarray:
        return tokenized(text, load_tokenizer(self.name))

    def _per_byte(self, nats: float) -> float:
        return nats / math.log(2) / len(self.text.encode())
