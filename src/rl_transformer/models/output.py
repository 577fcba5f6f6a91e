"""The output of the Decision Transformer's `forward`, and the check of its arguments.

Shapes: B windows, T timesteps, L tokens, H heads, E hidden_size, F parameters of the action head.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.shapes import Float, Shaped

_WHERE = "DecisionTransformerModel.forward"


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


def read_forward_arguments(
    config: DecisionTransformerConfig,
    action_kinds: tuple[str, ...],
    dtype: torch.dtype,
    states: Tensor,
    actions: Tensor,
    returns_to_go: Tensor | None,
    timesteps: Tensor | None,
    attention_mask: Tensor | np.ndarray | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the arguments of `DecisionTransformerModel.forward` in dtypes that it can compute with, checked.

    Args:
        config: The model's.
        action_kinds: Kinds of action space that its action head fits.
        dtype: That of its weights.
        states: As passed to `forward`, as for the following arguments.
        actions: As passed.
        returns_to_go: As passed.
        timesteps: As passed.
        attention_mask: As passed.

    Raises:
        RLTransformerError: A wrong type, dtype or shape, missing returns, a timestep beyond the table, a mask that is not
            one of zeros and ones, or a sequence that is all padding.
    """
    states = _as_floats("states", states, None if config.reads_bytes else dtype)
    if "box" not in action_kinds:
        actions = _as_indices("actions", actions)
    else:
        # A head of a plugin may read vectors as well as indices.
        actions = _as_floats("actions", actions, dtype if action_kinds == ("box",) else None)
    returns_to_go = None if returns_to_go is None else _as_floats("returns_to_go", returns_to_go, dtype)
    timesteps = None if timesteps is None else _as_indices("timesteps", timesteps)
    # Data loaders often make NumPy arrays of masks.
    mask = None if attention_mask is None else torch.as_tensor(attention_mask, device=states.device)
    _check_forward_arguments(config, states, actions, returns_to_go, timesteps, mask)
    return states, actions, returns_to_go, timesteps, mask


def _check_forward_arguments(
    config: DecisionTransformerConfig,
    states: Shaped[Tensor, "..."],
    actions: Shaped[Tensor, "..."],
    returns_to_go: Shaped[Tensor, "..."] | None,
    timesteps: Shaped[Tensor, "..."] | None,
    attention_mask: Shaped[Tensor, "..."] | None,
) -> None:
    """Refuse arguments of `DecisionTransformerModel.forward` that it would silently misread, or fail on obscurely.

    Raises:
        RLTransformerError: A wrong shape, missing returns, a timestep beyond the table, a mask that is not one of zeros and
            ones, or a sequence that is all padding.
    """
    batch, length, *_ = (*states.shape, 0, 0)  # states of fewer axes are refused below
    leading = (batch, length)
    state = config.state_shape
    _check_shape(
        "states", states, ("B", "T", *state), tuple(states.shape[2:]) == state and states.dim() == 2 + len(state)
    )
    # Arguments of another batch size or length would be broadcast against the observations without an error.
    _check_shape("actions", actions, (*leading, "..."), tuple(actions.shape[:2]) == leading)
    width = sum(config.widths)
    if returns_to_go is not None or width:
        shape = None if returns_to_go is None else tuple(returns_to_go.shape)
        is_right = shape == (*leading, width) or (width == 0 and returns_to_go is not None)
        _check_shape("returns_to_go", returns_to_go, (*leading, width), is_right)
    if timesteps is not None:
        _check_shape("timesteps", timesteps, leading, tuple(timesteps.shape) in (leading, (1, leading[1])))
    check_mask(attention_mask, leading, where=_WHERE)
    if config.window_length is not None:
        _check_window(config.window_length, leading[1], attention_mask)
    if torch.compiler.is_compiling():
        return  # a comparison with a traced length would become a limit of the compiled model
    # On a GPU an index beyond the table fails later, with an error that does not name it.
    first = 0
    if timesteps is not None and timesteps.numel():
        smallest = timesteps.min()
        if not has_values(smallest):
            return
        first = int(smallest)
        length = int(timesteps.max()) + 1
    if length > config.max_ep_len or first < 0:
        raise RLTransformerError(
            f"timestep {first if first < 0 else length - 1} is beyond the table of {config.max_ep_len} timesteps",
            where=_WHERE,
            fix="count timesteps from 0" if first < 0 else f"build the model with max_ep_len of {length} or more",
        )


def _check_window(longest: int, length: int, mask: Shaped[Tensor, "..."] | None) -> None:
    """Refuse what a model with positions in the window has no place for."""
    if length > longest:
        problem = f"{length} timesteps, and the model has positions for {longest}"
        raise RLTransformerError(problem, where=_WHERE, fix=f"pass the last {longest} timesteps")
    if mask is not None and not (mask[:, 0] == 1).all():
        raise RLTransformerError(
            "a sequence begins with padding, and its positions count from its first timestep",
            where=_WHERE,
            fix="pad on the right",
        )


def check_mask(mask: Shaped[Tensor, "..."] | None, shape: tuple[int, int], *, where: str) -> None:
    """Refuse a mask of another form than 1 at real tokens and 0 at padding.

    Raises:
        RLTransformerError: Another shape or other values, such as 0 and -10000, or a sequence that is all padding.
    """
    if mask is None:
        return
    fix = f"pass a mask of shape {shape} with 1 at real ones and 0 at padding"
    if tuple(mask.shape) != shape or mask.is_complex():
        raise RLTransformerError(f"attention_mask has shape {tuple(mask.shape)}", where=where, fix=fix)
    is_real = mask == 1
    if not has_values(is_real):
        return
    # Masks that are added to scores have 0 at real tokens, which is the opposite.
    if not (is_real | (mask == 0)).all():
        other = mask[~(is_real | (mask == 0))][0].item()
        raise RLTransformerError(f"attention_mask holds {other:g}, neither 0 nor 1", where=where, fix=fix)
    # Such a row would get numbers that look like predictions but depend on padding alone.
    if not is_real.any(dim=1).all():
        raise RLTransformerError(
            "attention_mask has a row of zeros: that sequence is all padding",
            where=where,
            fix="put 1 at real timesteps and 0 at padded ones",
        )


def has_values(tensor: Shaped[Tensor, "..."]) -> bool:
    """Return False while a tracer follows the computation: it knows shapes and dtypes, but no values."""
    return not (
        torch.compiler.is_compiling()
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
        or get_proxy_mode() is not None
        or is_batchedtensor(tensor)
    )


def _as_floats(name: str, values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return an argument of real numbers; float64, which NumPy makes, becomes ``dtype``, that of the model's weights.

    ``dtype`` None leaves it as it is, for example images, whose numbers are bytes.

    Raises:
        RLTransformerError: It is not a tensor, or not one of real numbers.
    """
    _check_is_tensor(name, values)
    if dtype is None:
        return values
    if not values.is_floating_point():
        raise RLTransformerError(
            f"{name} has the dtype {values.dtype}", where=_WHERE, fix=f"pass real numbers, such as {name}.float()"
        )
    return values.to(dtype) if values.dtype == torch.float64 else values


def _as_indices(name: str, values: Tensor) -> Tensor:
    """Return an argument of whole numbers with a dtype that tables can be indexed with.

    Raises:
        RLTransformerError: It is not a tensor, or not one of whole numbers.
    """
    _check_is_tensor(name, values)
    if values.dtype in (torch.int64, torch.int32):
        return values
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise RLTransformerError(
            f"{name} has the dtype {values.dtype}", where=_WHERE, fix=f"pass whole numbers, such as {name}.long()"
        )
    return values.long()


def _check_is_tensor(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        raise RLTransformerError(
            f"{name} is of the type {type(values).__name__}",
            where=_WHERE,
            fix=f"pass a tensor, such as torch.as_tensor({name})",
        )


def _check_shape(name: str, tensor: Tensor | None, expected: tuple[object, ...], is_right: bool) -> None:
    if not is_right:
        actual = None if tensor is None else tuple(tensor.shape)
        wanted = f"({', '.join(map(str, expected))})"
        raise RLTransformerError(f"{name} has shape {actual}", where=_WHERE, fix=f"pass {name} of shape {wanted}")
