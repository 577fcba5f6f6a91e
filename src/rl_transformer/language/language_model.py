"""Define a small language model of our own blocks, with GPT-2's tensor names, so that transformers loads it.

Shapes: B sequences, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerGPT2Model
from rl_transformer.runtime.files import to_json, write_tensors, write_text

END_OF_TEXT = "<|endoftext|>"
_END_OF_TEXT_ID = 0
_SEQUENCES_AT_ONCE = 32
# Fields of our configuration that GPT2Config has under the same name.
_SAME_IN_GPT2 = (
    "vocab_size", "n_positions", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop",
    "attn_pdrop", "layer_norm_epsilon", "initializer_range",
)  # fmt: skip


class LanguageModel(nn.Module):
    """A GPT-2 made of our blocks, whose output layer shares the weights of the word embeddings.

    Args:
        config: Sizes of the model; ``vocab_size`` and ``n_positions`` are the rows of its two tables.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = DecisionTransformerGPT2Model(config)

    def token_nlls(self, sequences: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats) of each token after the first: (B, L) -> (B, L - 1)."""
        hidden = self.transformer(sequences[:, :-1]).last_hidden_state
        logits = F.linear(hidden, self.transformer.wte.weight).float()  # autocast: a softmax over V needs float32
        nlls = F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), reduction="none")
        return nlls.view(len(sequences), -1)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors in the layout of transformers' GPT2LMHeadModel.

        The file loads in transformers without remote code, and as ``model.trunk`` like any model of the Hub.
        """
        values = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "dtype": "float32",
            "n_embd": self.config.hidden_size,
            "bos_token_id": _END_OF_TEXT_ID,
            "eos_token_id": _END_OF_TEXT_ID,
            **{name: getattr(self.config, name) for name in _SAME_IN_GPT2},
        }
        write_text(folder / "config.json", to_json(values))
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        write_tensors(folder / "model.safetensors", tensors)


def language_loss(
    model: LanguageModel, batch: Tensor, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean negative log-likelihood (nats) of the tokens of ``batch`` (B, L); a `Loss`."""
    nlls = model.token_nlls(batch)
    return nlls.sum() / (nlls.numel() if num_valid is None else num_valid)


class PredictsTokens(Protocol):
    """A module that `total_nll` can measure: our language model, or one of transformers."""

    def token_nlls(self, sequences: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats) of each token after the first: (B, L) -> (B, L - 1)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the module's parameters, whose device is that of the sequences."""
        ...


@torch.inference_mode()
def total_nll(
    model: PredictsTokens,
    tokens: np.ndarray,
    length: int,
    check: Callable[[], None] = lambda: None,
    *,
    at_once: int = _SEQUENCES_AT_ONCE,
) -> float:
    """Return the summed negative log-likelihood (nats) of all tokens but the first.

    Args:
        model: The language model.
        tokens: (N,) tokens of a text.
        length: Tokens that the model sees at most.
        check: Called per forward pass; may raise to stop.
        at_once: Sequences per forward pass.
    """
    # Sequences overlap by half, and each token counts once: in the sequence in which it has at least half a sequence of
    # context. Without overlap, the first tokens of each sequence would be predicted from almost nothing, and perplexity
    # would depend on where the text happens to be cut. Only the first sequence has tokens with less context.
    half = max(1, length // 2)
    starts = np.arange(0, max(1, len(tokens) - 1 - half), half)
    device = next(model.parameters()).device
    total = 0.0
    for part in np.array_split(starts, -(-len(starts) // at_once)):
        check()
        is_whole = np.minimum(part + length + 1, len(tokens)) - part == length + 1
        # Whole sequences form one batch. A shorter one at the end of the text gets a forward pass of its own, which
        # avoids padding, and with it masks.
        for group in (part[is_whole], *(part[i : i + 1] for i in np.flatnonzero(~is_whole))):
            if not len(group):
                continue
            size = min(length + 1, len(tokens) - group[0])
            sequences = torch.from_numpy(tokens[group[:, None] + np.arange(size)].astype(np.int64)).to(device)
            nlls = model.token_nlls(sequences)
            # The second half of every sequence, and the first half of the one that begins the text.
            counted = nlls[:, length - half :].sum() + nlls[group == 0, : length - half].sum()
            total += float(counted)
    return total
