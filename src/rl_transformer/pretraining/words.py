"""Going on with language while learning to act: the next word of a text, by the policy's own trunk."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.gpt2 import DecisionTransformerGPT2Model
from rl_transformer.models.hf_trunk import HFTrunk, first_position, position_table


class WordPrediction(nn.Module):
    """What a language model has beside its trunk: word table, positions and the head for the next word.

    Args:
        loaded: A causal language model of transformers, from which the trunk was filled.
        trunk: That trunk.

    Raises:
        RLTransformerError: A head that is more than one product: its loss would not be that of ``loaded``.
    """

    def __init__(self, loaded: Any, trunk: nn.Module) -> None:
        super().__init__()
        table, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
        self.table = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
        tied = head is None or head.weight is table.weight
        self.head = None if tied else copy.deepcopy(head)
        own = isinstance(trunk, DecisionTransformerGPT2Model)
        positions = position_table(loaded) if own else None
        adds = own and hasattr(trunk, "token_positions")  # the trunk then adds them itself
        self.positions = None if positions is None or adds else copy.deepcopy(positions)
        absent = getattr(loaded, "absent_weights", set())
        if head is not None and not tied and any(p is head.weight for n, p in loaded.named_parameters() if n in absent):
            raise RLTransformerError(
                f"the file lacks the head of {type(loaded).__name__}",
                where="language.text",
                fix="name a whole language model",
            )
        table = position_table(loaded)
        self.longest = None if table is None else table.num_embeddings - first_position(loaded, table)
        """Tokens a piece may have; None: any number."""
        self._check(loaded, trunk)

    def loss(self, trunk: Any, pieces: Tensor) -> Tensor:
        """Return the mean cross-entropy (nats) of each word after the first of ``pieces`` (B, L)."""
        words = self.table(pieces[:, :-1])
        if self.positions is not None:
            words = words + self.positions(torch.arange(words.shape[1], device=words.device))
        if isinstance(trunk, HFTrunk):
            with trunk.as_language_model():
                hidden = trunk.run_at(words, slice(None))
        else:
            hidden = trunk.run_at(words, slice(None))
        logits = F.linear(hidden, self.table.weight) if self.head is None else self.head(hidden)
        return F.cross_entropy(logits.flatten(0, 1).float(), pieces[:, 1:].flatten())

    @torch.no_grad()
    def _check(self, loaded: Any, trunk: nn.Module) -> None:
        pieces = torch.arange(min(12, self.longest or 12))[None] % self.table.num_embeddings
        was_training = trunk.training
        loaded.eval()
        trunk.eval()
        theirs, ours = loaded(input_ids=pieces, labels=pieces).loss, self.loss(trunk, pieces)
        trunk.train(was_training)
        if not abs(theirs - ours) <= 1e-3 * abs(theirs):
            raise RLTransformerError(
                f"the head of {type(loaded).__name__} is more than a product with the word table (loss {theirs:.4f}, here {ours:.4f})",
                where="language.text",
                fix="leave language.text out, or choose a trunk such as GPT-2 or Llama",
            )
