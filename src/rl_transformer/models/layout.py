"""Read and write the folders of transformers' Decision Transformer without transformers itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.runtime.files import to_json, write_tensors, write_text
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import parse_tensors, read_bytes, read_json
from rl_transformer.runtime.types import JsonObject

_TRUNK = "encoder."
_CONSTANT = "constant_position"
M = TypeVar("M", bound=nn.Module)


def save_model(model: nn.Module, config: DecisionTransformerConfig, folder: str | Path) -> None:
    """Write a whole Decision Transformer.

    Raises:
        RLTransformerError: A model that transformers would load as another one.
    """
    if config.extensions_in_use:
        raise RLTransformerError(
            f"transformers' Decision Transformer has no {', '.join(config.extensions_in_use)}",
            where=f"save_pretrained({folder})",
            fix="save it as a policy (a run's policy folder holds every option), or train without these options",
        )
    tensors = dict(model.state_dict())
    # transformers adds row 0 of its position table to every token, and silently gives random values to a table that
    # the file lacks. So both tables are written in full.
    positions = torch.zeros(config.n_positions, config.hidden_size)
    constant = tensors.pop(_TRUNK + _CONSTANT, None)
    if constant is not None:
        positions[0] = constant.cpu()
    tensors[_TRUNK + "wpe.weight"] = positions
    tensors[_TRUNK + "wte.weight"] = torch.zeros(config.vocab_size, config.hidden_size)
    _write(folder, config, tensors)


def load_model(build: Callable[[DecisionTransformerConfig], M], folder: str | Path) -> M:
    """Read a whole Decision Transformer; the position vector that transformers would add becomes part of the model."""
    values, tensors = _read(folder)
    # Older versions of transformers stored the causal mask with the weights.
    tensors = {name: t for name, t in tensors.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))}
    positions = tensors.pop(_TRUNK + "wpe.weight", None)
    tensors.pop(_TRUNK + "wte.weight", None)
    config = DecisionTransformerConfig.from_hf_dict(values, where=user_path(folder) / "config.json")
    # A row of zeros adds nothing, so a model without the vector is written and read back as the same model.
    if positions is not None and bool(positions[0].any()):
        config.constant_position = True
        tensors[_TRUNK + _CONSTANT] = positions[0].clone()
    return _load_weights(build(config), tensors, folder)


def save_trunk(trunk: nn.Module, config: DecisionTransformerConfig, folder: str | Path) -> None:
    """Write a bare trunk with its token and position tables."""
    tensors = dict(trunk.state_dict())
    if "wte.weight" not in tensors:
        raise RLTransformerError(
            "this trunk belongs to a Decision Transformer and has no token and position tables",
            where=f"save_pretrained({folder})",
            fix="call save_pretrained on the DecisionTransformerModel",
        )
    _write(folder, config, tensors)


def load_trunk(build: Callable[[DecisionTransformerConfig], M], folder: str | Path) -> M:
    """Read a bare trunk with its token and position tables."""
    values, tensors = _read(folder)
    config = DecisionTransformerConfig.from_hf_dict(values, where=user_path(folder) / "config.json")
    return _load_weights(build(config), tensors, folder)


def _write(folder: str | Path, config: DecisionTransformerConfig, tensors: dict[str, Tensor]) -> None:
    folder = user_path(folder)
    # safetensors refuses tensors that are not contiguous, such as transposed ones.
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_text(folder / "config.json", to_json(config.to_hf_dict()))
    write_tensors(folder / "model.safetensors", contiguous)


def _read(folder: str | Path) -> tuple[JsonObject, dict[str, Tensor]]:
    """Return the values of config.json and the tensors of model.safetensors."""
    folder = user_path(folder)
    config = folder / "config.json"
    weights = folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise RLTransformerError(
                "no such file",
                where=path,
                fix="name a local folder that holds config.json and model.safetensors (other weight formats are not read)",
            )
    fix = "save or download the folder again"
    return read_json(config, fix=fix), parse_tensors(read_bytes(weights, fix=fix), where=weights, fix=fix)


def _load_weights(model: M, tensors: dict[str, Tensor], folder: str | Path) -> M:
    """Load the tensors into the model and return it."""
    # `load_state_dict` would refuse the same files, but in one message of a line per tensor and without a fix.
    expected = model.state_dict()
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    shapes = [
        f"{n} {tuple(tensors[n].shape)} for {tuple(t.shape)}"
        for n, t in expected.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    for problem, names in (("lacks", missing), ("has unknown", unknown), ("has a wrong shape for", shapes)):
        if names:
            raise RLTransformerError(
                f"the file {problem} {', '.join(names[:5])}"
                + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
                where=user_path(folder) / "model.safetensors",
                fix="check that config.json and model.safetensors belong together",
            )
    model.load_state_dict({name: t.float() for name, t in tensors.items()})
    return model
