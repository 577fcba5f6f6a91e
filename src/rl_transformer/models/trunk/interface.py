"""The interface of trunks, and their registry.

Shapes: B windows, L tokens, Q query tokens, H heads, E hidden_size, R sessions that act now, P tokens per timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.contracts import check_module, trying_out
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.runtime.registry import Registry, broken_contract, call_plugin
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
    compute the same numbers. Without a KV cache `decode_step` may be left out.
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


def make_trunk(config: DecisionTransformerConfig) -> nn.Module:
    """Return the trunk of a policy: that of the transformer in ``config.trunk``, or the one ``config.blocks`` names.

    Raises:
        RLTransformerError: There is no such trunk, or it comes from a plugin and breaks the contract.
    """
    if config.trunk is None and config.blocks == "huggingface":
        raise RLTransformerError(
            "names no transformer", where="model.blocks", fix="set model.trunk to the transformer's folder or Hub id"
        )
    name = config.blocks if config.trunk is None else "huggingface"
    build = TRUNKS.get(name, where="model.blocks")
    trunk = call_plugin(TRUNKS, name, "the constructor", lambda: build(config))
    if TRUNKS.is_from_plugin(name):
        check_module(TRUNKS, name, trunk)
        call_plugin(TRUNKS, name, "a call", lambda: check_trunk_contract(trunk, config, name))
    return trunk


def check_trunk_contract(trunk: nn.Module, config: DecisionTransformerConfig, name: str) -> None:
    """Run a trunk with its initial weights on random tokens of three timesteps; check shapes and causality.

    Raises:
        RLTransformerError: It breaks the contract, or has no KV cache and is to have sliding-window attention.
    """
    module = cast(Trunk, trunk)
    if config.attention_span is not None and not module.supports_kv_cache:
        raise RLTransformerError(
            f"the trunk {name!r} has no sliding-window attention", where="model.attention", fix="use full"
        )
    length = 3 * config.tokens_per_timestep
    generator = torch.Generator().manual_seed(0)
    # Row 0 is the original; in row i + 1 token i is another one, so that a single call shows what each token affects.
    tokens = torch.randn(length, config.hidden_size, generator=generator).repeat(length + 1, 1, 1)
    tokens[1:].diagonal().copy_(torch.randn(config.hidden_size, length, generator=generator))
    positions = slice(config.observation_token, None, config.tokens_per_timestep)
    with trying_out(trunk):
        output = module.run(tokens, None)
        hidden = output.last_hidden_state
        read = module.hidden_at(tokens, positions)
        decoded = None if config.attention_span is None else _decode(module, config, tokens[:1])
    expected = tuple(tokens.shape)
    if tuple(hidden.shape) != expected or tuple(read.shape) != tuple(tokens[:, positions].shape):
        problem = f"tokens {expected} became {tuple(hidden.shape)} in run() and {tuple(read.shape)} in hidden_at()"
        raise broken_contract(TRUNKS, name, problem)
    if not torch.allclose(read, hidden[:, positions], rtol=1e-4, atol=1e-4):
        raise broken_contract(TRUNKS, name, "run() and hidden_at() compute different numbers")
    if decoded is not None and not torch.allclose(decoded, hidden[:1, :-1], rtol=1e-4, atol=1e-4):
        raise broken_contract(TRUNKS, name, "run() and decode_step() compute different numbers")
    changed = (hidden[1:] - hidden[:1]).abs().amax(-1) > 1e-4 * hidden.abs().amax()  # (token that differs, output)
    early = changed.tril(-1).nonzero().tolist()
    if early:
        problem = f"it is not causal: the output at token {early[0][1]} depends on token {early[0][0]}"
        raise broken_contract(TRUNKS, name, problem)


def _decode(trunk: Trunk, config: DecisionTransformerConfig, tokens: Float[Tensor, "1 L E"]) -> Float[Tensor, "1 _ E"]:
    """Return the hidden states of all tokens but the last action, computed one timestep at a time from a KV cache."""
    cache = KVCache(config, 1, tokens.device)
    per_step = config.tokens_per_timestep
    # Every step brings the action of the one before it; before the first step there is none.
    shifted = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    hidden = []
    for step, new in enumerate(shifted.split(per_step, dim=1)):
        cache.begin(np.array([0]), np.array([step]))
        hidden.append(trunk.decode_step(new, cache))
    return torch.cat(hidden, dim=1)[:, 1:]
