"""Check that a model has the parts that its configuration describes, because a file is loaded into exactly these."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from rl_transformer.errors import RLTransformerError

# The parts that users replace, with the registry and the option by which a file can name another one.
_SEAMS = {
    "embed_state": ("state encoder", "embeddings.ENCODERS", "model.state_encoder"),
    "predict_action": ("action head", "heads.HEADS", "model.action_head"),
    "embed_action": ("action head", "heads.HEADS", "model.action_head"),
    "encoder": ("trunk", "trunk.interface.TRUNKS", "model.blocks"),
}


def check_same_parts(model: nn.Module, reference: nn.Module, *, skip: str | None = None) -> None:
    """Compare the modules, parameters and buffers of a model with those of one that was built from its configuration.

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


def _differing_tensors(model: nn.Module, reference: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the parameters and buffers that only one model has, or that have another shape."""
    mine = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    for name in [*mine, *expected]:
        if mine.get(name) != expected.get(name):
            yield (
                name,
                f"its shape is {mine.get(name, 'missing')}, and the configuration says {expected.get(name, 'none')}",
            )


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
