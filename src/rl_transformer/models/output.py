"""The output of the Decision Transformer's `forward`, and the check of its arguments."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import RETURN_TO_GO, DecisionTransformerConfig


@dataclass
class DecisionTransformerOutput:
    """What `forward` returns; field names and order are those of transformers."""

    state_preds: Tensor | None = None
    action_preds: Tensor | None = None
    return_preds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None

    def to_tuple(self) -> tuple:
        """Return the fields that are not None, in order."""
        values = [getattr(self, f.name) for f in fields(self)]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: int | str) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]


def check_forward_arguments(
    config: DecisionTransformerConfig,
    states: Tensor,
    returns_to_go: Tensor | None,
    timesteps: Tensor | None,
    attention_mask: Tensor | None,
) -> None:
    """Refuse arguments of `DecisionTransformerModel.forward` that would compute something else, silently or not.

    Raises:
        RLTransformerError: Missing returns, a timestep beyond the table, or a sequence that is all padding.
    """
    where = "DecisionTransformerModel.forward"
    if config.conditions == (RETURN_TO_GO,) and (returns_to_go is None or returns_to_go.shape[:2] != states.shape[:2]):
        found = None if returns_to_go is None else tuple(returns_to_go.shape)
        raise RLTransformerError(
            f"returns_to_go has shape {found}, and the states {tuple(states.shape)}",
            where=where,
            fix=f"pass returns_to_go of shape {(*states.shape[:2], 1)}",
        )
    length = states.shape[1] if timesteps is None else int(timesteps.max()) + 1
    if length > config.max_ep_len:
        raise RLTransformerError(
            f"timestep {length - 1} is beyond the table of {config.max_ep_len} timesteps",
            where=where,
            fix=f"build the model with max_ep_len of {length} or more",
        )
    if attention_mask is not None and not attention_mask.bool().any(dim=1).all():
        raise RLTransformerError(
            "attention_mask has a row of zeros: that sequence is all padding",
            where=where,
            fix="put 1 at real timesteps and 0 at padded ones",
        )
