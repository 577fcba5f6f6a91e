"""The causal transformer: GPT-2's blocks over embedded tokens.

Shapes: B batch, L tokens, Q query tokens, H heads, E hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.dropout import Dropout
from rl_transformer.models.hf_layout import load_trunk, save_trunk
from rl_transformer.models.products import affine
from rl_transformer.models.stream import TokenStream

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Conv1D(nn.Module):
    """A linear layer that stores its weight as (inputs, outputs), as GPT-2's files do."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, columns: slice = slice(None)) -> Tensor:
        """Return x @ weight[:, columns] + bias[columns], (..., inputs) -> (..., outputs)."""
        weight, bias = (
            (self.weight, self.bias) if columns == slice(None) else (self.weight[:, columns], self.bias[columns])
        )
        if x.dim() == 2:
            return affine(x, weight, bias)
        return affine(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Masked self-attention, with as many queries as are asked for."""

    def __init__(self, config: DecisionTransformerConfig, layer: int) -> None:
        super().__init__()
        self.width, self.n_head = config.hidden_size, config.n_head
        self.upcast = config.reorder_and_upcast_attn
        self.scale = (self.width // self.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = Conv1D(3 * self.width, self.width)
        self.c_proj = Conv1D(self.width, self.width)
        self.attn_dropout = Dropout(config.attn_pdrop)

    def forward(
        self, x: Tensor, queries: Tensor | None, mask: Tensor, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``queries`` (or from every token) to ``x``.

        Args:
            x: (B, L, E) normalized tokens, the keys and values.
            queries: (B, Q, E) normalized tokens that ask; None means all of ``x``.
            mask: (B or 1, 1, Q, L), 0 where a query may look and a large negative number elsewhere.
            need_weights: Return the attention weights (B, H, Q, L) as well.
        """
        if queries is None:
            query, key, value = self._by_head(self.c_attn(x), 3)
        else:
            (query,) = self._by_head(self.c_attn(queries, slice(0, self.width)), 1)
            key, value = self._by_head(self.c_attn(x, slice(self.width, None)), 2)
        mixed, weights = self._mix(query, key, value, mask, need_weights)
        return self.c_proj(mixed), weights

    def stream(self, x: Tensor, stream: TokenStream, layer: int, mask: Tensor) -> Tensor:
        """Attend from new tokens (R, P, E) to those that the stream has kept, themselves included."""
        query, new = self.c_attn(x).split([self.width, 2 * self.width], dim=2)
        (query,), (key, value) = self._by_head(query, 1), self._by_head(stream.put(layer, new), 2)
        return self.c_proj(self._mix(query, key, value, mask, need_weights=False)[0])

    def _by_head(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, L, parts * E) into ``parts`` tensors (B * H, L, E / H)."""
        split = x.unflatten(2, (parts, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return split.flatten(1, 2).unbind(0)

    def _mix(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return values mixed by attention (B, Q, E), and the weights if they are wanted."""
        # On CPUs torch's fused attention is no faster at these lengths, slower backwards in bfloat16, and sums few
        # queries in an order that depends on the size of the batch.
        if need_weights or self.attn_dropout.active or self.upcast or query.device.type == "cpu":
            weights = self._weights(query, key, mask)
            mixed = torch.bmm(self.attn_dropout(weights).to(value.dtype), value).unflatten(0, (-1, self.n_head))
            kept = weights.to(value.dtype).unflatten(0, (-1, self.n_head)) if need_weights else None
            return mixed.transpose(1, 2).flatten(2), kept
        query, key, value = (part.unflatten(0, (-1, self.n_head)) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype), scale=self.scale)
        return mixed.transpose(1, 2).flatten(2), None

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """Return softmax(scale * query key^T + mask), (B * H, Q, L) in float32."""
        by_head = mask.expand(-1, self.n_head, -1, -1).flatten(0, 1) if len(mask) > 1 else mask[0]
        if self.upcast:
            with torch.autocast(query.device.type, enabled=False):
                scores = torch.baddbmm(by_head, query.float(), key.float().transpose(1, 2), alpha=self.scale)
        else:
            scores = torch.baddbmm(by_head.to(query.dtype), query, key.transpose(1, 2), alpha=self.scale)
        # In float32, also under autocast: CPUs are slow at it in bfloat16.
        return torch.softmax(scores.float(), dim=-1)


class MLP(nn.Module):
    """Two linear layers with a non-linearity between."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.inner_size, config.hidden_size)
        self.c_proj = Conv1D(config.hidden_size, config.inner_size)
        self.activation = _ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x.flatten(0, -2))  # flat, so that the activation may work in place
        return self.c_proj(self.activation(hidden)).view(x.shape)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: DecisionTransformerConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(
        self, hidden: Tensor, mask: Tensor, rows: slice | None = None, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens at ``rows`` (None: all) after this block, and the attention weights."""
        normed = self.ln_1(hidden)
        attended, weights = self.attn(normed, None if rows is None else normed[:, rows], mask, need_weights)
        hidden = hidden if rows is None else hidden[:, rows]
        return self._after(hidden, attended), weights

    def stream(self, hidden: Tensor, stream: TokenStream, layer: int, mask: Tensor) -> Tensor:
        """Return new tokens (R, P, E) after this block."""
        return self._after(hidden, self.attn.stream(self.ln_1(hidden), stream, layer, mask))

    def _after(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.dropout.add_to(hidden, attended)
        return self.dropout.add_to(hidden, self.mlp(self.ln_2(hidden)))


SAME_SUMS_FROM = 12
"""A matrix product of few rows is summed in another order on CPUs (MKL; tried with 1 to 8 threads): of fewer than
four, and of other numbers below this where threads share them, but not of four or eight. Acting computes
so many rows at least, so that an action is the same to the bit whether its episode acts alone or among others."""


def rows_around(index: int, length: int) -> tuple[slice, int]:
    """Return four neighboring rows (if there are so many) that hold ``index``, and its place among them.

    Computing four rows where one is wanted costs next to nothing; see `SAME_SUMS_FROM`.
    """
    begin = max(0, index + 1 - 4)
    return slice(begin, min(length, begin + 4)), index - begin


@lru_cache(maxsize=64)
def causal_mask(length: int, span: int | None, per_step: int, device: torch.device) -> Tensor:
    """Return what each token must not see, to be added to the scores: (1, 1, L, L), 0 or a large negative number.

    With ``span`` a token sees the last so many timesteps, its own included, of ``per_step`` tokens
    each. The blocked value is finite, so that a padded token, which may see nothing, still computes
    finite numbers.
    """
    with torch.inference_mode(False):  # the mask is kept, and may be wanted for training next
        allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        if span is not None:
            step = torch.arange(length, device=device) // per_step
            allowed = allowed & (step[:, None] - step < span)
        return blocking(allowed)


def blocking(allowed: Tensor) -> Tensor:
    """Return what to add to scores so that only the ``allowed`` ones count."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, torch.finfo(torch.bfloat16).min)


@dataclass
class TrunkOutput:
    """What the trunk returns; the field names are those of transformers."""

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, ...]:
        return [v for v in (self.last_hidden_state, self.hidden_states, self.attentions) if v is not None][index]


class DecisionTransformerGPT2Model(nn.Module):
    """GPT-2 as Decision Transformer uses it; tensors are named as in transformers.

    Inside a `DecisionTransformerModel` the word and position tables are absent
    (``with_tables=False``): they are never used there.
    """

    def __init__(self, config: DecisionTransformerConfig, *, with_tables: bool = True) -> None:
        super().__init__()
        self.config = config
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
        """Weights N(0, initializer_range), biases 0, as the published code (trajectory_gpt2.py)."""
        for module in self.modules():
            if isinstance(module, Conv1D | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
        if hasattr(self, "constant_position"):
            nn.init.normal_(self.constant_position, std=self.config.initializer_range)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **unsupported: object,
    ) -> TrunkOutput:
        """Run every block over word indices (B, L) or embedded tokens (B, L, E)."""
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
        valid = None if attention_mask is None else attention_mask.bool()
        return self.run(tokens, valid, keep_hidden=output_hidden_states, keep_weights=output_attentions)

    def run(
        self, tokens: Tensor, valid: Tensor | None, *, keep_hidden: bool = False, keep_weights: bool = False
    ) -> TrunkOutput:
        """Run every block over every token (B, L, E); ``valid`` (B, L) is True at real tokens."""
        mask = self._mask(tokens)
        if valid is not None:
            mask = blocking((mask == 0) & valid[:, None, None, :])
        hidden = self._enter(tokens, valid)
        hidden_states, attentions = [hidden], []
        for block in self.h:
            hidden, weights = block(hidden, mask, need_weights=keep_weights)
            hidden_states.append(hidden)
            attentions.append(weights)
        last = hidden_states[-1] = self.ln_f(hidden)
        return TrunkOutput(
            last_hidden_state=last,
            hidden_states=tuple(hidden_states) if keep_hidden else None,
            attentions=tuple(attentions) if keep_weights else None,
        )

    def run_at(self, tokens: Tensor, rows: slice) -> Tensor:
        """Return the last hidden state at ``rows`` only: (B, L, E) -> (B, Q, E).

        The last block computes keys and values of every token but everything else only where it is
        asked for. Tokens are left-aligned, so causality alone keeps padding out of sight.
        """
        mask = self._mask(tokens)
        hidden = self._enter(tokens)
        *blocks, last = self.h
        for block in blocks:
            hidden, _ = block(hidden, mask)
        hidden, _ = last(hidden, mask[:, :, rows], rows)
        return self.ln_f(hidden)

    def run_next(self, tokens: Tensor, stream: TokenStream) -> Tensor:
        """Return the last hidden state of new tokens (R, P, E) that follow those in the stream."""
        mask = blocking(stream.visible)[:, None]
        hidden = self._enter(tokens)
        for layer, block in enumerate(self.h):
            assert isinstance(block, Block)
            hidden = block.stream(hidden, stream, layer, mask)
        return self.ln_f(hidden)

    def _mask(self, tokens: Tensor) -> Tensor:
        span, per_step = self.config.attention_span, self.config.tokens_per_timestep
        return causal_mask(tokens.shape[1], span, per_step, tokens.device)

    def _enter(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        if hasattr(self, "constant_position"):
            tokens = tokens + self.constant_position
        if hasattr(self, "token_positions"):
            tokens = tokens + self.token_positions(self._places(tokens, valid))
        return self.drop(tokens)

    def _places(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """Return which real token of its window each token is, from 0."""
        length, rows = tokens.shape[1], self.token_positions.num_embeddings
        if length > rows:
            raise RLTransformerError(
                f"{length} tokens are more than the {rows} positions of the trunk",
                where="model.positions",
                fix="set it to off, or shorten windows.context_length",
            )
        if valid is None:
            return torch.arange(length, device=tokens.device)
        return (valid.cumsum(1) - 1).clamp(min=0)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DecisionTransformerGPT2Model:
        """Load a trunk from a folder in transformers' layout."""
        return load_trunk(cls, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors in transformers' layout."""
        save_trunk(self, self.config, folder)
