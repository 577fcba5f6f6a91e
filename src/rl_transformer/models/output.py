"""The output of the Decision Transformer's `forward`, and the check of its arguments.

Shapes: B windows, T timesteps, L tokens, H heads, E hidden_size, F parameters of the action head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import RETURN_TO_GO, DecisionTransformerConfig
from rl_transformer.runtime.shapes import Float, Int, Shaped


@dataclass
class DecisionTransformerOutput:
    """The return value of `forward`; field names and their order are those of transformers."""

    state_preds: Float[Tensor, "B T D"] | None = None
    action_preds: Float[Tensor, "B T F"] | None = None
    return_preds: Float[Tensor, "B T 1"] | None = None
    hidden_states: tuple[Float[Tensor, "B L E"], ...] | None = None
    attentions: tuple[Float[Tensor, "B H L L"], ...] | None = None
    last_hidden_state: Float[Tensor, "B L E"] | None = None

    def to_tuple(self) -> tuple[Tensor | tuple[Tensor, ...], ...]:
        """Return the fields that are not None, in order."""
        values = [getattr(self, f.name) for f in fields(self)]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: int | str) -> Tensor | tuple[Tensor, ...] | None:
        # As in transformers, a number counts only the fields that are present.
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]


def check_forward_arguments(
    config: DecisionTransformerConfig,
    states: Shaped[Tensor, "B T *state"],
    returns_to_go: Float[Tensor, "..."] | None,
    timesteps: Int[Tensor, "B T"] | None,
    attention_mask: Shaped[Tensor, "B T"] | None,
) -> None:
    """Refuse arguments of `DecisionTransformerModel.forward` that it would silently misread, or fail on obscurely.

    Raises:
        RLTransformerError: Missing returns, a timestep beyond the table, or a sequence that is all padding.
    """
    where = "DecisionTransformerModel.forward"
    # Returns of another batch size or length would be broadcast against the observations without an error.
    if config.conditions == (RETURN_TO_GO,) and (returns_to_go is None or returns_to_go.shape[:2] != states.shape[:2]):
        actual = None if returns_to_go is None else tuple(returns_to_go.shape)
        raise RLTransformerError(
            f"returns_to_go has shape {actual}, and the states {tuple(states.shape)}",
            where=where,
            fix=f"pass returns_to_go of shape {(*states.shape[:2], 1)}",
        )
    # On a GPU an index beyond the table fails later, with an error that does not name it.
    length = states.shape[1] if timesteps is None else int(timesteps.max()) + 1
    if length > config.max_ep_len:
        raise RLTransformerError(
            f"timestep {length - 1} is beyond the table of {config.max_ep_len} timesteps",
            where=where,
            fix=f"build the model with max_ep_len of {length} or more",
        )
    # Such a row would get numbers that look like predictions but depend on padding alone.
    if attention_mask is not None and not attention_mask.bool().any(dim=1).all():
        raise RLTransformerError(
            "attention_mask has a row of zeros: that sequence is all padding",
            where=where,
            fix="put 1 at real timesteps and 0 at padded ones",
        )
