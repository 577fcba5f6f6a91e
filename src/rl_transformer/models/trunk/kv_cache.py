"""The KV cache of sliding-window attention.

Where every token sees the last K timesteps in every layer, the keys and values of old tokens stay valid
when the window moves on. So an action costs the tokens of one timestep instead of K timesteps. It is exact,
because training uses the same mask.

Shapes: S sessions, R of them that act now, P tokens per timestep, C cached tokens, KV = 2 E: a key and a value.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.shapes import Bool, Float, Int

_EMPTY = -1


class KVCache:
    """Keys and values of the last K + 1 timesteps of S sessions, for every layer, in ring buffers.

    Tokens arrive one timestep at a time: the action of the previous timestep, then the conditions and the
    observation of this one. That action still sees K timesteps back from its own, hence one more.
    """

    def __init__(self, config: DecisionTransformerConfig, sessions: int, device: torch.device) -> None:
        assert config.attention_span is not None
        self._span = config.attention_span
        self._per_step = config.tokens_per_timestep
        self._capacity = (self._span + 1) * self._per_step
        self._cached = torch.zeros(config.n_layer, sessions, self._capacity, 2 * config.hidden_size, device=device)
        # The number of the token that each slot holds, in its episode. It is kept on the CPU, because `begin` computes
        # with a few numbers, once for all layers.
        self._index = np.full((sessions, self._capacity), _EMPTY)
        self.visible: Bool[Tensor, "R P C"] = torch.empty(0, dtype=torch.bool)
        """The cached tokens that the new ones may see."""

    def reset(self, rows: Int[np.ndarray, "R"]) -> None:
        """Empty the cache of the sessions ``rows``, whose episodes have ended."""
        # Keys and values remain in memory, but no mask makes them visible again.
        self._index[rows] = _EMPTY

    def begin(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"]) -> None:
        """Reserve slots for the next tokens of the sessions ``rows``, which are at timesteps ``steps``."""
        # Tokens of an episode are numbered from 0. The first new one is the previous timestep's action; before
        # an episode's first step there is none, and its number -1 marks the slot as empty.
        new = steps[:, None] * self._per_step + np.arange(-1, self._per_step - 1)  # (R, P)
        slots = new % self._capacity  # the oldest token is overwritten
        self._index[rows[:, None], slots] = new
        cached = self._index[rows][:, None]  # (R, 1, C)
        queries = new[:, :, None]
        steps_back = queries // self._per_step - cached // self._per_step
        visible = (cached != _EMPTY) & (cached <= queries) & (steps_back < self._span)
        device = self._cached.device
        self.visible = torch.from_numpy(visible).to(device)
        self._rows = torch.from_numpy(rows).to(device)
        self._slots = torch.from_numpy(slots).to(device)
        # When all sessions act, the whole cache is used in place instead of copied.
        self._all = len(rows) == self._index.shape[0] and bool((rows == np.arange(len(rows))).all())

    def put(self, layer: int, new: Float[Tensor, "R P KV"]) -> Float[Tensor, "R C KV"]:
        """Store a layer's keys and values of the new tokens, and return all cached ones."""
        cached = self._cached[layer]
        cached[self._rows[:, None], self._slots] = new.to(cached.dtype)
        return cached if self._all else cached[self._rows]
