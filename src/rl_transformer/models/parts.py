"""Check that a model has the parts that its configuration describes, because a file is loaded into exactly these."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import DecisionTransformerConfig

# The parts that users replace, with the registry and the option by which a file can name another one.
_SEAMS = {
    "embed_state": ("state encoder", "embeddings.ENCODERS", "model.state_encoder"),
    "predict_action": ("action head", "heads.HEADS", "model.action_head"),
    "embed_action": ("action head", "heads.HEADS", "model.action_head"),
    "encoder": ("trunk", "trunk.interface.TRUNKS", "model.blocks"),
}

# What a model computes with beside its tensors and functions.
_SETTINGS = (int, float, bool, str, tuple, type(None), DecisionTransformerConfig)
# Attributes that change with the way a model is used, and nothing that an acting model computes.
_NO_SETTINGS = ("training", "gradient_checkpointing", "name_or_path")


def check_same_parts(model: nn.Module, reference: nn.Module, *, skip: str | None = None) -> None:
    """Compare a model with one that was built from its configuration: modules, their settings and hooks, and tensors.

    Args:
        model: The model that is to be trained or saved.
        reference: What loading its file would build.
        skip: Name of a part that is not compared.

    Raises:
        RLTransformerError: They differ: the file could not be loaded, or the loaded model would compute other actions.
    """
    for name, problem in _differences(model, reference):
        part = name.partition(".")[0]
        if part == skip:
            continue
        fix = f"leave {name or 'the model'} as it was built; own parts are registered by name, see docs/extending.md"
        if part in _SEAMS:
            kind, registry, option = _SEAMS[part]
            fix = (
                f"register your {kind} as a function or class of the configuration, "
                f"rl_transformer.models.{registry}.register('NAME', ...), and build the model with {option} NAME; "
                "see docs/extending.md"
            )
        raise RLTransformerError(
            f"{problem}, so that the saved model could not be loaded as it is",
            where=f"model.{name}".rstrip("."),
            fix=fix,
        )


def _differences(model: nn.Module, reference: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each part that differs, and how; the outermost parts come first."""
    mine = dict(model.named_modules())
    expected = dict(reference.named_modules())
    for name, module in mine.items():
        if name not in expected:
            yield name, f"{type(module).__name__} is a part that the configuration does not describe"
        elif not _is_same_kind(name, module, expected[name]):
            yield name, f"{type(module).__name__} has replaced {type(expected[name]).__name__}"
        else:
            yield from _differing_functions(name, module, expected[name])
    for name in expected:
        if name not in mine:
            yield name, f"{type(expected[name]).__name__} was removed"
    yield from _differing_tensors(model, reference)
    for name in [name for name in mine if name in expected]:
        yield from _differing_settings(name, mine[name], expected[name])
        yield from _added_hooks(name, mine[name], expected[name])


def _differing_tensors(model: nn.Module, reference: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the parameters and buffers that only one model has, or that have another shape, dtype or fixed value."""
    mine = model.state_dict()
    expected = reference.state_dict()
    for name in [*mine, *expected]:
        forms = [
            f"{tuple(tensors[name].shape)} of {tensors[name].dtype}" if name in tensors else "missing"
            for tensors in (mine, expected)
        ]
        if forms[0] != forms[1]:
            yield name, f"its shape is {forms[0]}, and the configuration says {forms[1]}"
    # Buffers that are in no file are computed from the configuration when the model is built.
    computed = dict(model.named_buffers())
    for name, buffer in reference.named_buffers():
        if name in expected or name not in computed or _is_of(reference.get_submodule(name.rpartition(".")[0])):
            continue
        if computed[name].dtype != buffer.dtype or not torch.equal(computed[name].cpu(), buffer):
            yield name, "its numbers are not those that the configuration describes, and it is in no file"


def _differing_settings(name: str, module: nn.Module, expected: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield settings of a module that differ, such as the ``eps`` of a norm: they are in no file."""
    for attribute, value in vars(expected).items():
        if attribute.startswith("_") or attribute in _NO_SETTINGS or not isinstance(value, _SETTINGS):
            continue
        actual = getattr(module, attribute, None)
        if not isinstance(actual, _SETTINGS) or actual != value:
            yield f"{name}.{attribute}".lstrip("."), f"it is {actual!r}, and the configuration says {value!r}"


def _added_hooks(name: str, module: nn.Module, expected: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield a module with forward hooks that it was not built with: they may change its input and output."""
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        # Other libraries observe their own modules by hooks, for example to return attention weights.
        own = [hook for hook in vars(module)[kind].values() if not _is_of(hook)]
        built = [hook for hook in vars(expected)[kind].values() if not _is_of(hook)]
        if len(own) > len(built):
            yield name, f"a forward hook of {type(module).__name__} is in no file; remove it, handle.remove()"


def _is_of(item: object) -> bool:
    """Return True if a function or module belongs to a library that sets up its modules while they run."""
    module = getattr(item, "__module__", None) or ""
    return module.startswith(("transformers.", "torch.distributed."))


def _differing_functions(name: str, module: nn.Module, expected: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield functions that were put into a module, such as another activation or another ``forward``."""
    for attribute, value in vars(module).items():
        if callable(value) and not attribute.startswith("_") and vars(expected).get(attribute) is not value:
            yield f"{name}.{attribute}".lstrip("."), "it is another function than the configuration describes"


def _is_same_kind(name: str, module: nn.Module, expected: nn.Module) -> bool:
    """Return True if a module computes what the expected one does, as far as their classes tell."""
    # A model with a forward of its own, which computes a loss for a trainer, still acts as the model below it.
    if not name and isinstance(module, type(expected)):
        overridden = set().union(*(vars(kind) for kind in type(module).__mro__ if kind not in type(expected).__mro__))
        computing = {
            key for key, value in vars(type(expected)).items() if callable(value) or isinstance(value, property)
        }
        return not overridden & (computing - {"__init__", "forward"})
    # By name rather than identity, because torch makes a new class for each layer with a LoRA update, and a class that is
    # defined again in a notebook is another one, too.
    kinds = [(type(m).__module__, type(m).__qualname__) for m in (module, expected)]
    return kinds[0] == kinds[1]
