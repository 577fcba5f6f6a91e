"""Keys and values of tokens that were seen, for streaming attention.

Where every token sees the last K timesteps in every layer, what a layer computed for an old token stays
right when the window moves on. So an action costs the tokens of one timestep instead of K; and it is
exact, because training masks the same way.

Shapes: S sessions, R of them that act now, P tokens a timestep, C kept tokens, E hidden_size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rl_transformer.models.config import DecisionTransformerConfig

_EMPTY = -1


class TokenStream:
    """The last K + 1 timesteps of S sessions, for every layer.

    New tokens come a timestep at a time: the action of the timestep before, then conditions and
    observation of this one. The action still sees K timesteps back from its own, hence the one more.
    """

    def __init__(self, config: DecisionTransformerConfig, sessions: int, device: torch.device) -> None:
        assert config.attention_span is not None
        self._span, self._per_step = config.attention_span, config.tokens_per_timestep
        self._capacity = (self._span + 1) * self._per_step
        self._kept = torch.zeros(config.n_layer, sessions, self._capacity, 2 * config.hidden_size, device=device)
        self._index = np.full((sessions, self._capacity), _EMPTY)  # which token of its episode a place holds
        self.visible = torch.empty(0)
        """(R, P, C) bool: what the new tokens see."""

    def reset(self, rows: np.ndarray) -> None:
        """Forget the episodes of ``rows``."""
        self._index[rows] = _EMPTY

    def begin(self, rows: np.ndarray, steps: np.ndarray) -> None:
        """Make room for the next tokens of ``rows``, whose timesteps are ``steps``."""
        new = steps[:, None] * self._per_step + np.arange(-1, self._per_step - 1)  # (R, P)
        places = new % self._capacity
        self._index[rows[:, None], places] = new  # before an episode's first step there is no action: -1, empty
        kept = self._index[rows][:, None]  # (R, 1, C)
        asking = new[:, :, None]
        steps_back = asking // self._per_step - kept // self._per_step
        visible = (kept != _EMPTY) & (kept <= asking) & (steps_back < self._span)
        device = self._kept.device
        self.visible = torch.from_numpy(visible).to(device)
        self._rows = torch.from_numpy(rows).to(device)
        self._places = torch.from_numpy(places).to(device)
        self._all = len(rows) == self._index.shape[0] and bool((rows == np.arange(len(rows))).all())

    def put(self, layer: int, new: Tensor) -> Tensor:
        """Keep a layer's keys and values of the new tokens (R, P, 2 E), and return all of them: (R, C, 2 E)."""
        kept = self._kept[layer]
        kept[self._rows[:, None], self._places] = new.to(kept.dtype)
        return kept if self._all else kept[self._rows]
