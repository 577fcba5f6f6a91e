"""The KV cache of sliding-window attention.

Where every token sees the last K timesteps in every layer, the keys and values of old tokens stay valid
when the window moves on. So an action costs the tokens of one timestep instead of K timesteps. It is exact,
because training uses the same mask.

Shapes: S sessions, R of them that act now, K that are kept, P tokens per timestep, C cached tokens, N of one session,
KV = 2 E: a key and a value.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.shapes import Bool, Float, Int

_EMPTY = -1
_Numbers = TypeVar("_Numbers", np.ndarray, Tensor)


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

    def resize(self, keep: Int[np.ndarray, "K"], sessions: int) -> None:
        """Make room for ``sessions``, of which the first are those in ``keep``; all others are forgotten."""
        layers, _, *sizes = self._cached.shape
        cached = torch.zeros(layers, sessions, *sizes, device=self._cached.device)
        cached[:, : len(keep)] = self._cached[:, torch.from_numpy(keep).to(cached.device)]
        index = np.full((sessions, self._capacity), _EMPTY)
        index[: len(keep)] = self._index[keep]
        self._cached = cached
        self._index = index

    def session_shape(self, acts: int) -> tuple[int, int, int]:
        """Return the shape of `read_session` after a number of actions: layers, tokens, numbers per token."""
        # The first action of an episode is preceded by no other, hence one token less.
        tokens = min(self._capacity, max(0, acts * self._per_step - 1))
        return self._cached.shape[0], tokens, self._cached.shape[3]

    def read_session(self, row: int, acts: int) -> Float[Tensor, "layers N KV"]:
        """Return the N cached tokens of a session that has acted ``acts`` times, oldest first."""
        return self._cached[:, row, torch.from_numpy(self._slots_after(acts))]

    def write_session(self, row: int, acts: int, tokens: Float[Tensor, "layers N KV"]) -> None:
        """Replace the cache of a session by what `read_session` returned."""
        slots = self._slots_after(acts)
        self._index[row] = _EMPTY
        self._index[row, slots] = self._numbers_after(acts)
        self._cached[:, row] = 0
        self._cached[:, row, torch.from_numpy(slots)] = tokens.to(self._cached.device)

    def _numbers_after(self, acts: int) -> Int[np.ndarray, "N"]:
        """Return the numbers of the tokens that the cache holds: the newest ones, up to the last observation's."""
        end = max(0, acts * self._per_step - 1)
        return np.arange(max(0, end - self._capacity), end)

    def _slots_after(self, acts: int) -> Int[np.ndarray, "N"]:
        return self._numbers_after(acts) % self._capacity

    @property
    def nbytes(self) -> int:
        """Return the memory of all cached tokens, in bytes."""
        return self._cached.nbytes + self._index.nbytes

    def begin(self, rows: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"]) -> None:
        """Reserve slots for the next tokens of the sessions ``rows``, which are at timesteps ``steps``."""
        # Tokens of an episode are numbered from 0. The first new one is the previous timestep's action; before
        # an episode's first step there is none, and its number -1 marks the slot as empty.
        new = steps[:, None] * self._per_step + np.arange(-1, self._per_step - 1)  # (R, P)
        slots = new % self._capacity  # the oldest token is overwritten
        self._index[rows[:, None], slots] = new
        cached = self._index[rows][:, None]  # (R, 1, C)
        queries = new[:, :, None]
        visible = visible_tokens(queries, cached, self._span, self._per_step)
        device = self._cached.device
        self.visible = torch.from_numpy(visible).to(device)
        self._rows = torch.from_numpy(rows).to(device)
        self._slots = torch.from_numpy(slots).to(device)
        # When the first sessions act, all in order, their part of the cache is used in place instead of copied.
        self._in_place = bool((rows == np.arange(len(rows))).all())

    def put(self, layer: int, new: Float[Tensor, "R P KV"]) -> Float[Tensor, "R C KV"]:
        """Store a layer's keys and values of the new tokens, and return all cached ones."""
        cached = self._cached[layer]
        cached[self._rows[:, None], self._slots] = new.to(cached.dtype)
        return cached[: len(new)] if self._in_place else cached[self._rows]


def visible_tokens(queries: _Numbers, cached: _Numbers, span: int, per_step: int) -> _Numbers:
    """Return a boolean array or tensor that is True where a cached token may be seen by a new one.

    Args:
        queries: Numbers of the new tokens in their episode, from 0, of a shape that broadcasts with that of ``cached``.
        cached: Numbers of the cached tokens; a negative one is an empty slot.
        span: The number of timesteps that a token sees, its own included.
        per_step: Tokens per timestep.
    """
    steps_back = queries // per_step - cached // per_step
    return (cached >= 0) & (cached <= queries) & (steps_back < span)
