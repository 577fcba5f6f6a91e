"""Model language with the policy's own trunk, for co-training."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.huggingface.position_tables import first_position, position_table
from rl_transformer.models.huggingface.trunk import HFTrunk
from rl_transformer.models.trunk.gpt2 import DecisionTransformerGPT2Model
from rl_transformer.models.trunk.interface import Trunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LMHead(nn.Module):
    """Holds the parts of a language model outside its trunk: word embeddings, positions and the output layer.

    Shapes: B sequences, L tokens.

    Args:
        loaded: A causal language model of transformers, whose weights the trunk was initialized with.
        trunk: That trunk.

    Raises:
        RLTransformerError: The output layer is more than one matrix product, so the loss would differ from that of
            ``loaded``, or the file lacks the output layer.
    """

    def __init__(self, loaded: PreTrainedModel, trunk: nn.Module) -> None:
        super().__init__()
        embeddings = cast(nn.Embedding, loaded.get_input_embeddings())
        output = cast("nn.Linear | None", loaded.get_output_embeddings())
        # A tied output layer must stay tied: as a copy it would get updates of its own and drift away.
        is_tied = output is None or output.weight is embeddings.weight
        # A copy, so that training does not change the loaded model.
        self.embeddings = nn.Embedding.from_pretrained(embeddings.weight.detach().clone(), freeze=False)
        self.output = None if is_tied else copy.deepcopy(output)
        positions = position_table(loaded)
        # transformers' trunks add positions themselves. Our blocks have no position table of their own, unless the
        # policy uses the pretrained one; text needs positions in any case, so the head brings them.
        is_own = isinstance(trunk, DecisionTransformerGPT2Model)
        needs_positions = is_own and not hasattr(trunk, "token_positions")
        self.positions = copy.deepcopy(positions) if needs_positions else None
        _require_output_layer(loaded, None if is_tied else output)
        self.max_length = None if positions is None else positions.num_embeddings - first_position(loaded, positions)
        """Largest number of tokens per sequence; None: no limit."""
        self._check(loaded, trunk)

    def loss(self, trunk: nn.Module, sequences: Tensor) -> Tensor:
        """Return the mean cross-entropy (nats) of the tokens after the first of each of the sequences (B, L)."""
        tokens = self.embeddings(sequences[:, :-1])
        if self.positions is not None:
            tokens = tokens + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        # A policy may use a transformers trunk without its position table; text gets the positions of pretraining.
        with trunk.as_language_model() if isinstance(trunk, HFTrunk) else nullcontext():
            hidden = cast(Trunk, trunk).hidden_at(tokens, slice(None))
        logits = F.linear(hidden, self.embeddings.weight) if self.output is None else self.output(hidden)
        return F.cross_entropy(logits.flatten(0, 1).float(), sequences[:, 1:].flatten())

    @torch.no_grad()
    def _check(self, loaded: PreTrainedModel, trunk: nn.Module) -> None:
        """Compare the loss with that of ``loaded`` on one short sequence.

        Raises:
            RLTransformerError: The two differ by more than rounding.
        """
        # Output layers of many architectures scale, shift or cap their logits. Comparing numbers catches all of them,
        # also in architectures that do not exist yet; a list of names would not.
        sequence = torch.arange(min(12, self.max_length or 12))[None] % self.embeddings.num_embeddings
        was_training = trunk.training
        loaded.eval()
        trunk.eval()
        expected = loaded(input_ids=sequence, labels=sequence).loss
        actual = self.loss(trunk, sequence)
        trunk.train(was_training)
        if not abs(expected - actual) <= 1e-3 * abs(expected):  # written so that NaN is an error, too
            raise RLTransformerError(
                f"the output layer of {type(loaded).__name__} is not just a product with the word embeddings "
                f"(loss {expected:.4f}, here {actual:.4f})",
                where="language.text",
                fix="leave language.text out, or choose a trunk such as GPT-2 or Llama",
            )


def _require_output_layer(loaded: PreTrainedModel, output: nn.Linear | None) -> None:
    """Raise an `RLTransformerError` if the model's file lacks the output layer."""
    # transformers fills missing weights with random numbers. `_check` would not notice, as it compares with the same.
    absent = getattr(loaded, "absent_weights", set())
    if output is not None and any(p is output.weight for name, p in loaded.named_parameters() if name in absent):
        raise RLTransformerError(
            f"the file lacks the output layer of {type(loaded).__name__}",
            where="language.text",
            fix="name a complete language model",
        )
