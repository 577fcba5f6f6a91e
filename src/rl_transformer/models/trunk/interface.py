"""What a trunk is, and the registry of them.

Shapes: B windows, L tokens, Q query tokens, E hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from rl_transformer.runtime.registry import Registry

if TYPE_CHECKING:
    from rl_transformer.models.config import DecisionTransformerConfig
    from rl_transformer.models.trunk.kv_cache import KVCache


@dataclass
class TrunkOutput:
    """What `Trunk.run` returns; the field names are those of transformers."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        return [v for v in (self.last_hidden_state, self.hidden_states, self.attentions) if v is not None][index]


class Trunk(Protocol):
    """A causal sequence model over embedded tokens, also an `nn.Module`.

    Contract: the output at a token depends on that token and earlier ones only, and `run` and `hidden_at`
    compute the same numbers.
    """

    supports_kv_cache: bool
    """`decode_step` works: needed for sliding-window attention while acting."""

    def run(
        self, tokens: Tensor, valid: Tensor | None, *, keep_hidden: bool = False, keep_weights: bool = False
    ) -> TrunkOutput:
        """Run every token (B, L, E); ``valid`` (B, L) is True at real tokens, wherever they stand."""
        ...

    def hidden_at(self, tokens: Tensor, positions: slice) -> Tensor:
        """Return the last hidden state at ``positions`` only: (B, L, E) -> (B, Q, E). Padding follows real tokens."""
        ...

    def decode_step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Return the last hidden state of new tokens (B, Q, E), which follow those in the cache."""
        ...


TRUNKS: Registry[Callable[[DecisionTransformerConfig], nn.Module]] = Registry("trunk")
"""Functions from a configuration to a trunk, by the name in ``model.blocks``."""

TRUNKS.register("gpt2", "rl_transformer.models.trunk.gpt2:policy_trunk")
TRUNKS.register("huggingface", "rl_transformer.models.huggingface.trunk:policy_trunk")
