"""GPT-2's transformer block.

Shapes: B windows, L tokens, Q query tokens, H heads, BH windows times heads, E hidden_size, W width of a head, R sessions
that act now, P tokens per timestep, C cached tokens; #B is B or 1.
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
from rl_transformer.runtime.shapes import Float


def _relu(x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    # In place, because the gradient of relu follows from its output: one tensor of 4 E per token less in memory.
    return F.relu(x, inplace=True)


def _gelu_new(x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    return F.gelu(x, approximate="tanh")


# Named functions, because a model that holds a lambda cannot be copied into another process.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": _relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_new,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Conv1D(nn.Module):
    """A linear layer whose weight is stored as (inputs, outputs), as in GPT-2's files."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        # The names of nn.Linear, by which other libraries (peft) learn the sizes of a layer.
        self.in_features = inputs
        self.out_features = outputs
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "*B inputs"], columns: slice = slice(None)) -> Float[Tensor, "*B outputs"]:
        """Return x @ weight[:, columns] + bias[columns]."""
        weight = self.weight
        bias = self.bias
        # Indexed only where needed: each index is a node in the graph of the backward pass.
        if columns != slice(None):
            weight = weight[:, columns]
            bias = bias[columns]
        if x.dim() == 2:
            return linear(x, weight, bias)
        return linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Masked self-attention, with all tokens or only some of them as queries."""

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
        self,
        x: Float[Tensor, "B L E"],
        queries: Float[Tensor, "B Q E"] | None,
        mask: Float[Tensor, "#B 1 Q L"],
        need_weights: bool,
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q L"] | None]:
        """Attend from ``queries`` to ``x``.

        Args:
            x: Normalized tokens: keys and values.
            queries: Normalized query tokens; None means all of ``x``.
            mask: Additive mask.
            need_weights: Return the attention weights as well.
        """
        if queries is None:
            query, key, value = self._split_heads(self.c_attn(x), 3)
        else:
            # c_attn holds the weights of queries, keys and values side by side. Where only the observations' tokens are
            # queries, their columns are applied to these tokens alone.
            (query,) = self._split_heads(self._project(queries, slice(0, self.width)), 1)
            key, value = self._split_heads(self._project(x, slice(self.width, None)), 2)
        mixed, weights = self._attend(query, key, value, mask, need_weights)
        return self.c_proj(mixed), weights

    def decode_step(
        self, x: Float[Tensor, "R P E"], cache: KVCache, layer: int, mask: Float[Tensor, "R 1 P C"]
    ) -> Float[Tensor, "R P E"]:
        """Attend from new tokens to the cached ones, themselves included."""
        # Keys and values go into the cache before they are read, because a new token sees the new ones before it too.
        query, new = self.c_attn(x).split([self.width, 2 * self.width], dim=2)
        (query,) = self._split_heads(query, 1)
        key, value = self._split_heads(cache.put(layer, new), 2)
        return self.c_proj(self._attend(query, key, value, mask, need_weights=False)[0])

    def _project(self, x: Float[Tensor, "B L E"], columns: slice) -> Float[Tensor, "B L _"]:
        """Return some columns of queries, keys and values."""
        if isinstance(self.c_attn, Conv1D):
            return self.c_attn(x, columns)
        # An adapter of another library around the layer, such as peft's, computes all of them.
        return self.c_attn(x)[..., columns]

    def _split_heads(self, x: Float[Tensor, "B L _"], parts: int) -> tuple[Float[Tensor, "BH L W"], ...]:
        """Split the last axis into ``parts``, and each of them into heads, which become rows of the batch."""
        # The parts come first in one permuted copy, so that each of them is contiguous for the matrix products.
        split = x.unflatten(2, (parts, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        return split.flatten(1, 2).unbind(0)

    def _attend(
        self,
        query: Float[Tensor, "BH Q W"],
        key: Float[Tensor, "BH L W"],
        value: Float[Tensor, "BH L W"],
        mask: Float[Tensor, "#B 1 Q L"],
        need_weights: bool,
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q L"] | None]:
        """Return the attention output, and the attention weights if they are needed."""
        # On CPUs torch's fused attention is no faster at these lengths, has a slower backward pass in bfloat16,
        # and sums few queries in an order that depends on the batch size. It also cannot use our dropout masks.
        if need_weights or self.attn_dropout.active or self.upcast or query.device.type == "cpu":
            weights = self._weights(query, key, mask)
            output = torch.bmm(self.attn_dropout(weights).to(value.dtype), value).unflatten(0, (-1, self.n_head))
            returned = weights.to(value.dtype).unflatten(0, (-1, self.n_head)) if need_weights else None
            return output.transpose(1, 2).flatten(2), returned
        # The fused kernel takes heads as an axis of their own.
        query, key, value = (part.unflatten(0, (-1, self.n_head)) for part in (query, key, value))
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype), scale=self.scale)
        return output.transpose(1, 2).flatten(2), None

    def _weights(
        self, query: Float[Tensor, "BH Q W"], key: Float[Tensor, "BH L W"], mask: Float[Tensor, "#B 1 Q L"]
    ) -> Float[Tensor, "BH Q L"]:
        """Return softmax(scale * query key^T + mask) in float32."""
        # A mask that all windows share is broadcast by baddbmm; only one that differs is copied for every head.
        by_head = mask.expand(-1, self.n_head, -1, -1).flatten(0, 1) if mask.shape[0] > 1 else mask[0]
        count = query.shape[0]
        if count == 1 and query.device.type == "cpu":
            # Threads sum the product of a single matrix in another order than those of several: see reproducible_sums.
            query = query.expand(2, -1, -1)
            key = key.expand(2, -1, -1)
        if self.upcast:
            # Autocast would compute the product in bfloat16 again, whatever the dtype of its factors.
            with torch.autocast(query.device.type, enabled=False):
                scores = torch.baddbmm(by_head, query.float(), key.float().transpose(1, 2), alpha=self.scale)
        else:
            scores = torch.baddbmm(by_head.to(query.dtype), query, key.transpose(1, 2), alpha=self.scale)
        # In float32 also under autocast: exp is slow in bfloat16 on CPUs, and small weights would vanish.
        return torch.softmax(scores[:count].float(), dim=-1)


class MLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.inner_size, config.hidden_size)
        self.c_proj = Conv1D(config.hidden_size, config.inner_size)
        self.activation = _ACTIVATIONS[config.activation_function]

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
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
        self,
        hidden: Float[Tensor, "B L E"],
        mask: Float[Tensor, "#B 1 Q L"],
        rows: slice | None = None,
        need_weights: bool = False,
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q L"] | None]:
        """Return the hidden states after this block at ``rows`` (None: at all tokens), and the attention weights."""
        # Every token is needed as key and value, so all of them are normalized, whatever the rows.
        normed = self.ln_1(hidden)
        attended, weights = self.attn(normed, None if rows is None else normed[:, rows], mask, need_weights)
        hidden = hidden if rows is None else hidden[:, rows]
        return self._add_branches(hidden, attended), weights

    def decode_step(
        self, hidden: Float[Tensor, "R P E"], cache: KVCache, layer: int, mask: Float[Tensor, "R 1 P C"]
    ) -> Float[Tensor, "R P E"]:
        """Return the hidden states of new tokens after this block, which is number ``layer`` in the cache."""
        return self._add_branches(hidden, self.attn.decode_step(self.ln_1(hidden), cache, layer, mask))

    def _add_branches(self, hidden: Float[Tensor, "B Q E"], attended: Float[Tensor, "B Q E"]) -> Float[Tensor, "B Q E"]:
        """Add the attention branch, then the MLP branch, which is computed from the sum."""
        hidden = self.dropout.add_to(hidden, attended)
        return self.dropout.add_to(hidden, self.mlp(self.ln_2(hidden)))
