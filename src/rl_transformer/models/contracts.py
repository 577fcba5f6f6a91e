"""Checks that every module of a plugin must pass, and the conditions under which a module is tried out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from rl_transformer.runtime.registry import Registry, broken_contract

T = TypeVar("T")
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_module(registry: Registry[T], name: str, module: object) -> None:
    """Refuse what a plugin built if it is no `nn.Module`, or if a resumed run could not repeat its dropout masks.

    Raises:
        RLTransformerError: The message names the plugin.
    """
    if not isinstance(module, nn.Module):
        raise broken_contract(registry, name, f"it built {type(module).__name__}, not an nn.Module")
    for place, part in module.named_modules():
        # nn.Dropout has a probability p; attention and recurrent layers have one called dropout.
        probability = part.p if isinstance(part, _DROPOUTS) else getattr(part, "dropout", 0)
        if isinstance(probability, float) and probability > 0:
            problem = (
                f"{place or 'it'} is {type(part).__name__} with dropout {probability:g}, which a resumed run cannot "
                "repeat; use rl_transformer.models.trunk.dropout.Dropout, or 0"
            )
            raise broken_contract(registry, name, problem)


@contextmanager
def trying_out(module: nn.Module) -> Iterator[None]:
    """Run a module on a few numbers without a trace: no gradient, no random draw, no running average."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        module.train(was_training)
