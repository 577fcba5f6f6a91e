"""A small language model of our own: our blocks under GPT-2's tensor names, so that transformers loads it.

Shapes: B sequences, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models import DecisionTransformerConfig, DecisionTransformerGPT2Model
from rl_transformer.runtime.files import to_json, write_text

END_OF_TEXT = "<|endoftext|>"
_END_OF_TEXT_ID = 0
_SEQUENCES_AT_ONCE = 32
_SAME_IN_GPT2 = (
    "vocab_size", "n_positions", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop",
    "attn_pdrop", "layer_norm_epsilon", "initializer_range",
)  # fmt: skip


class LanguageModel(nn.Module):
    """GPT-2 with tied embeddings, on our blocks.

    Args:
        config: Its sizes; ``vocab_size`` and ``n_positions`` are those of the tables.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = DecisionTransformerGPT2Model(config)

    def token_nlls(self, sequences: Tensor) -> Tensor:
        """Return the negative log-likelihood (nats) of each token after the first: (B, L) -> (B, L - 1)."""
        hidden = self.transformer(sequences[:, :-1]).last_hidden_state
        logits = F.linear(hidden, self.transformer.wte.weight).float()
        nlls = F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten(), reduction="none")
        return nlls.view(len(sequences), -1)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors in the layout of transformers' GPT2LMHeadModel."""
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
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def language_loss(
    model: LanguageModel, batch: Tensor, *, step: int | None = None, num_valid: float | None = None
) -> Tensor:
    """Return the mean negative log-likelihood of the tokens; a `Loss`."""
    nlls = model.token_nlls(batch)
    return nlls.sum() / (nlls.numel() if num_valid is None else num_valid)


@torch.inference_mode()
def total_nll(model: LanguageModel, tokens: np.ndarray, length: int, check: Callable[[], None] = lambda: None) -> float:
    """Return the negative log-likelihood (nats) of all of ``tokens`` but the first.

    The text is read in sequences that overlap by half, and each token is counted once, with at least half a
    sequence of text before it (except in the first sequence).
    """
    half = max(1, length // 2)
    starts = np.arange(0, max(1, len(tokens) - 1 - half), half)
    device = next(model.parameters()).device
    total = 0.0
    for part in np.array_split(starts, -(-len(starts) // _SEQUENCES_AT_ONCE)):
        check()
        is_whole = np.minimum(part + length + 1, len(tokens)) - part == length + 1
        # Whole sequences make one batch; a shorter one at the end of the text is read alone.
        for group in (part[is_whole], *(part[i : i + 1] for i in np.flatnonzero(~is_whole))):
            if not len(group):
                continue
            size = min(length + 1, len(tokens) - group[0])
            sequences = torch.from_numpy(tokens[group[:, None] + np.arange(size)].astype(np.int64)).to(device)
            nlls = model.token_nlls(sequences)
            counted = nlls[:, length - half :].sum() + nlls[group == 0, : length - half].sum()
            total += float(counted)
    return total
