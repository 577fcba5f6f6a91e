"""The interface of trunks, and their registry.

Shapes: B windows, L tokens, Q query tokens, H heads, E hidden_size, R sessions that act now, P tokens per timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.runtime.registry import Registry
from rl_transformer.runtime.shapes import Bool, Float


@dataclass
class TrunkOutput:
    """The return value of `Trunk.run`; the field names are those of transformers."""

    last_hidden_state: Float[Tensor, "B L E"]
    hidden_states: tuple[Float[Tensor, "B L _"], ...] | None = None
    attentions: tuple[Float[Tensor, "B H L L"], ...] | None = None

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        # As in transformers, a number counts only the fields that are present.
        return [v for v in (self.last_hidden_state, self.hidden_states, self.attentions) if v is not None][index]


class Trunk(Protocol):
    """A causal sequence model over embedded tokens; implementations are `nn.Module`s.

    Contract: the output at a token depends on that token and earlier ones only, and `run` and `hidden_at`
    compute the same numbers.
    """

    supports_kv_cache: bool
    """True if `decode_step` works, which sliding-window attention needs while acting."""

    def run(
        self,
        tokens: Float[Tensor, "B L E"],
        valid: Bool[Tensor, "B L"] | None,
        *,
        keep_hidden: bool = False,
        keep_weights: bool = False,
    ) -> TrunkOutput:
        """Run every token; ``valid`` is True at real tokens, and padding may be on either side of them."""
        ...

    def hidden_at(self, tokens: Float[Tensor, "B L E"], positions: slice) -> Float[Tensor, "B Q E"]:
        """Return the last hidden state at ``positions`` only; padding may only follow the real tokens."""
        ...

    def decode_step(self, tokens: Float[Tensor, "R P E"], cache: KVCache) -> Float[Tensor, "R P E"]:
        """Return the last hidden state of new tokens, which follow those in the cache."""
        ...


TRUNKS: Registry[Callable[[DecisionTransformerConfig], nn.Module]] = Registry("trunk")
"""Functions from a configuration to a trunk, by their name in ``model.blocks``."""

TRUNKS.register("gpt2", "rl_transformer.models.trunk.gpt2:policy_trunk")
TRUNKS.register("huggingface", "rl_transformer.models.huggingface.trunk:policy_trunk")
