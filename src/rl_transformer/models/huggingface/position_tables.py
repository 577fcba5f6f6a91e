"""Find the tables of absolute positions inside Hugging Face transformers, and switch them off.

Shapes: *B any leading axes, E width of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.runtime.shapes import Float

_POSITIONS = ("wpe", "position_embedding", "position_embeddings", "embed_positions")
_SEGMENTS = ("token_type_embeddings",)  # its first row would be a constant added to every token


def position_table(module: nn.Module) -> nn.Embedding | None:
    """Return the table of absolute positions, if there is one."""
    return next((table for _, table in _tables(module, _POSITIONS)), None)


def position_table_name(module: nn.Module) -> str | None:
    """Return the name of the submodule that is the table of absolute positions, if there is one."""
    return next((name for name, _ in _tables(module, _POSITIONS)), None)


def first_position(module: nn.Module, table: nn.Embedding) -> int:
    """Return the row of the first token's position."""
    # OPT and BART reserve rows before it and keep their number as `offset`; RoBERTa counts from its padding token.
    if any(hasattr(part, "create_position_ids_from_inputs_embeds") for part in module.modules()):
        return (table.padding_idx or 0) + 1
    return int(getattr(table, "offset", 0))


def make_switchable(module: nn.Module) -> None:
    """Make position and segment tables add zeros until `set_active` changes that."""
    # Hooks rather than tables of zeros: the rows remain in the model, and can be switched on again.
    for _, table in _tables(module, (*_POSITIONS, *_SEGMENTS)):
        set_active(table, False)
        # Subclasses compute the row from their argument themselves, so it must reach them unchanged.
        if type(table) is nn.Embedding:
            table.register_forward_pre_hook(_clamp_indices)
        table.register_forward_hook(_zero_output)


def set_active(table: nn.Module, active: bool) -> None:
    """Make a switchable table add its rows, or zeros."""
    # Written into the dictionary, because nn.Module declares all its attributes to be tensors or modules.
    vars(table)["adds_nothing"] = not active


def is_switchable(module: nn.Module) -> bool:
    """Return True for tables that `make_switchable` prepared."""
    return "adds_nothing" in vars(module)


def _tables(module: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Embedding]]:
    """Yield the path and the module of each embedding table with one of these names."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in names:
            yield name, part


def _clamp_indices(table: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Allow any position while the table adds nothing."""
    # The position ids cannot be replaced outside: transformers takes any but 0, 1, 2, ... for packed sequences.
    assert isinstance(table, nn.Embedding)
    if not vars(table)["adds_nothing"]:
        return None
    return tuple(indices.clamp(max=table.num_embeddings - 1) for indices in inputs)


def _zero_output(table: nn.Module, inputs: tuple[Any, ...], output: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    """Replace the rows by zeros while the table adds nothing."""
    return torch.zeros_like(output) if vars(table)["adds_nothing"] else output
