"""GPT-2's transformer block.

Shapes: B windows, L tokens, Q query tokens, H heads, E hidden_size, R sessions, P tokens per timestep.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.trunk.cpu_linear import linear
from rl_transformer.models.trunk.dropout import Dropout
from rl_transformer.models.trunk.kv_cache import KVCache

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
        weight = self.weight
        bias = self.bias
        if columns != slice(None):
            weight = weight[:, columns]
            bias = bias[columns]
        if x.dim() == 2:
            return linear(x, weight, bias)
        return linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Masked self-attention, from all tokens or from a few query tokens."""

    def __init__(self, config: DecisionTransformerConfig, layer: int) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.n_head = config.n_head
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
            x: (B, L, E) normalized tokens: keys and values.
            queries: (B, Q, E) normalized query tokens; None means all of ``x``.
            mask: (B or 1, 1, Q, L) additive mask.
            need_weights: Return the attention weights (B, H, Q, L) as well.
        """
        if queries is None:
            query, key, value = self._split_heads(self.c_attn(x), 3)
        else:
            (query,) = self._split_heads(self.c_attn(queries, slice(0, self.width)), 1)
            key, value = self._split_heads(self.c_attn(x, slice(self.width, None)), 2)
        mixed, weights = self._attend(query, key, value, mask, need_weights)
        return self.c_proj(mixed), weights

    def decode_step(self, x: Tensor, cache: KVCache, layer: int, mask: Tensor) -> Tensor:
        """Attend from new tokens (R, P, E) to the cached ones, themselves included."""
        query, new = self.c_attn(x).split([self.width, 2 * self.width], dim=2)
        (query,) = self._split_heads(query, 1)
        key, value = self._split_heads(cache.put(layer, new), 2)
        return self.c_proj(self._attend(query, key, value, mask, need_weights=False)[0])

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, L, parts * E) into ``parts`` tensors (B * H, L, E / H)."""
        split = x.unflatten(2, (parts, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return split.flatten(1, 2).unbind(0)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention output (B, Q, E), and the attention weights if they are needed."""
        # On CPUs torch's fused attention is no faster at these lengths, has a slower backward pass in bfloat16,
        # and sums few queries in an order that depends on the batch size. It also cannot use our dropout masks.
        if need_weights or self.attn_dropout.active or self.upcast or query.device.type == "cpu":
            weights = self._weights(query, key, mask)
            output = torch.bmm(self.attn_dropout(weights).to(value.dtype), value).unflatten(0, (-1, self.n_head))
            returned = weights.to(value.dtype).unflatten(0, (-1, self.n_head)) if need_weights else None
            return output.transpose(1, 2).flatten(2), returned
        query, key, value = (part.unflatten(0, (-1, self.n_head)) for part in (query, key, value))
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype), scale=self.scale)
        return output.transpose(1, 2).flatten(2), None

    def _weights(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """Return softmax(scale * query key^T + mask), (B * H, Q, L) in float32."""
        by_head = mask.expand(-1, self.n_head, -1, -1).flatten(0, 1) if len(mask) > 1 else mask[0]
        if self.upcast:
            with torch.autocast(query.device.type, enabled=False):
                scores = torch.baddbmm(by_head, query.float(), key.float().transpose(1, 2), alpha=self.scale)
        else:
            scores = torch.baddbmm(by_head.to(query.dtype), query, key.transpose(1, 2), alpha=self.scale)
        # In float32 also under autocast: exp is slow in bfloat16 on CPUs, and small weights would vanish.
        return torch.softmax(scores.float(), dim=-1)


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.inner_size, config.hidden_size)
        self.c_proj = Conv1D(config.hidden_size, config.inner_size)
        self.activation = _ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        # Flat, so that the activation can work in place: a view of the product would not allow it.
        hidden = self.c_fc(x.flatten(0, -2))
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
        return self._add_branches(hidden, attended), weights

    def decode_step(self, hidden: Tensor, cache: KVCache, layer: int, mask: Tensor) -> Tensor:
        """Return new tokens (R, P, E) after this block; ``layer`` is its place in the cache."""
        return self._add_branches(hidden, self.attn.decode_step(self.ln_1(hidden), cache, layer, mask))

    def _add_branches(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Add the attention branch, then the MLP branch computed from the sum."""
        hidden = self.dropout.add_to(hidden, attended)
        return self.dropout.add_to(hidden, self.mlp(self.ln_2(hidden)))
