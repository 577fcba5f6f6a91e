"""Our own trunk: GPT-2's blocks over embedded tokens.

Shapes: B windows, L tokens, Q query tokens, E hidden_size, R sessions that act now, P tokens per timestep; #B is B or 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.layout import load_trunk, save_trunk
from rl_transformer.models.output import check_mask
from rl_transformer.models.parts import check_same_parts
from rl_transformer.models.trunk.block import Block, Conv1D
from rl_transformer.models.trunk.dropout import Dropout
from rl_transformer.models.trunk.interface import TrunkOutput
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.masks import additive_mask, causal_mask
from rl_transformer.runtime.shapes import Bool, Float, Int, Shaped


class DecisionTransformerGPT2Model(nn.Module):
    """GPT-2 as Decision Transformer uses it; tensors are named as in transformers.

    Inside a `DecisionTransformerModel` it is built without token and position tables (``with_tables=False``), because
    they would never be used there.
    """

    supports_kv_cache = True

    def __init__(self, config: DecisionTransformerConfig, *, with_tables: bool = True) -> None:
        super().__init__()
        self.config = config
        # A module or parameter that is absent is no key of the state dict, so files hold what the model uses.
        if with_tables:
            self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
            self.wpe = nn.Embedding(config.n_positions, config.hidden_size)
        elif config.constant_position:
            self.constant_position = nn.Parameter(torch.zeros(config.hidden_size))
        if config.token_positions and not with_tables:
            self.token_positions = nn.Embedding(config.n_positions, config.hidden_size)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self._initialize()

    def _initialize(self) -> None:
        """Draw the weights from N(0, initializer_range), as the published code does (trajectory_gpt2.py)."""
        # Biases are zero since they were built, and layer norms are the identity.
        for module in self.modules():
            if isinstance(module, Conv1D | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
        if hasattr(self, "constant_position"):
            nn.init.normal_(self.constant_position, std=self.config.initializer_range)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "B L E"] | None = None,
        attention_mask: Shaped[Tensor, "..."] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **unsupported: object,
    ) -> TrunkOutput:
        """Run every block over token indices or embedded tokens.

        Raises:
            RLTransformerError: An argument of transformers' model that has no effect here, or an ``attention_mask`` that is
                not (B, L) with 1 at real tokens and 0 at padding.
        """
        # Code written for transformers may pass any of its arguments; those that change nothing are accepted.
        given = sorted(name for name, value in unsupported.items() if value is not None and value is not False)
        if given:
            raise RLTransformerError(
                f"{', '.join(given)} is not supported by this trunk",
                where="DecisionTransformerGPT2Model.forward",
                fix="leave it out: a window is always computed whole",
            )
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        tokens: Tensor = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if hasattr(self, "wpe"):
            if position_ids is None:
                position_ids = torch.arange(tokens.shape[1], device=tokens.device)[None]
            tokens = tokens + self.wpe(position_ids)
        check_mask(attention_mask, (tokens.shape[0], tokens.shape[1]), where="DecisionTransformerGPT2Model.forward")
        valid = None if attention_mask is None else attention_mask.bool()
        return self.run(tokens, valid, keep_hidden=output_hidden_states, keep_weights=output_attentions)

    def run(
        self,
        tokens: Float[Tensor, "B L E"],
        valid: Bool[Tensor, "B L"] | None,
        *,
        keep_hidden: bool = False,
        keep_weights: bool = False,
    ) -> TrunkOutput:
        """Run every block over every token; ``valid`` is True at real tokens."""
        mask = self._mask(tokens)
        # Padding may be on either side here, so causality alone does not hide it.
        if valid is not None:
            mask = additive_mask((mask == 0) & valid[:, None, None, :])
        hidden = self._add_positions(tokens, valid)
        hidden_states = [hidden]
        attentions = []
        for block in self.h:
            hidden, weights = block(hidden, mask, need_weights=keep_weights)
            hidden_states.append(hidden)
            attentions.append(weights)
        # As in transformers, the last hidden state is the one after the final layer norm.
        last = hidden_states[-1] = self.ln_f(hidden)
        return TrunkOutput(
            last_hidden_state=last,
            hidden_states=tuple(hidden_states) if keep_hidden else None,
            attentions=tuple(attentions) if keep_weights else None,
        )

    def hidden_at(self, tokens: Float[Tensor, "B L E"], positions: slice) -> Float[Tensor, "B Q E"]:
        """Return the last hidden state at ``positions`` only.

        Tokens are left-aligned, so causality alone keeps padding out of sight.
        """
        mask = self._mask(tokens)
        hidden = self._add_positions(tokens)
        # The last block computes keys and values of every token, but queries, projections and the MLP, which are most
        # of its work, only at these positions. The blocks before it need every token.
        *blocks, last = self.h
        for block in blocks:
            hidden, _ = block(hidden, mask)
        hidden, _ = last(hidden, mask[:, :, positions], positions)
        return self.ln_f(hidden)

    def decode_step(self, tokens: Float[Tensor, "R P E"], cache: KVCache) -> Float[Tensor, "R P E"]:
        """Return the last hidden state of new tokens, which follow those in the cache."""
        mask = additive_mask(cache.visible)[:, None]  # the same for every head
        hidden = self._add_positions(tokens)
        for layer, block in enumerate(self.h):
            assert isinstance(block, Block)
            hidden = block.decode_step(hidden, cache, layer, mask)
        return self.ln_f(hidden)

    def _mask(self, tokens: Float[Tensor, "B L E"]) -> Float[Tensor, "1 1 L L"]:
        span = self.config.attention_span
        return causal_mask(tokens.shape[1], span, self.config.tokens_per_timestep, tokens.device)

    def _add_positions(
        self, tokens: Float[Tensor, "B L E"], valid: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L E"]:
        """Add what the configuration asks for, and apply dropout, which comes after positions in GPT-2."""
        if hasattr(self, "constant_position"):
            tokens = tokens + self.constant_position
        if hasattr(self, "token_positions"):
            tokens = tokens + self.token_positions(self._position_ids(tokens, valid))
        return self.drop(tokens)

    def _position_ids(
        self, tokens: Float[Tensor, "B L E"], valid: Bool[Tensor, "B L"] | None
    ) -> Int[Tensor, "L"] | Int[Tensor, "B L"]:
        """Return each token's index among the real tokens of its window, counted from 0."""
        length = tokens.shape[1]
        rows = self.token_positions.num_embeddings
        if length > rows:
            raise RLTransformerError(
                f"{length} tokens are more than the {rows} positions of the trunk",
                where="model.positions",
                fix="set it to off, or shorten windows.context_length",
            )
        if valid is None:
            return torch.arange(length, device=tokens.device)
        # Padding at the start would count as -1, which is no row of the table; nothing sees the result there.
        return (valid.cumsum(1) - 1).clamp(min=0)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DecisionTransformerGPT2Model:
        """Load a trunk from a folder in transformers' layout."""
        return load_trunk(cls, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors in transformers' layout."""
        if hasattr(self, "wte"):
            with torch.random.fork_rng(devices=[]):
                check_same_parts(self, DecisionTransformerGPT2Model(self.config))
        save_trunk(self, self.config, folder)


def policy_trunk(config: DecisionTransformerConfig) -> DecisionTransformerGPT2Model:
    """Return the trunk of a policy, which has no token and position tables."""
    return DecisionTransformerGPT2Model(config, with_tables=False)
