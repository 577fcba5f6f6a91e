"""The papers' experiments, by name; each module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rl_transformer.errors import RLTransformerError

if TYPE_CHECKING:
    from rl_transformer.reproductions.reproduction import Experiment

EXPERIMENTS = {
    "key-to-door": "key_to_door:KeyToDoor",
    "graph": "graph:Graph",
    "context": "context:Context",
    "delayed": "rivals:Delayed",
    "percent-bc": "rivals:PercentBC",
    "return-control": "return_control:ReturnControl",
    "gambling": "traps:Gambling",
    "stitching": "traps:Stitching",
    "locomotion": "locomotion:Locomotion",
    "small-data": "rivals:SmallData",
    "wikipedia": "wikipedia:Wikipedia",
    "scaling": "scaling:Scaling",
}


def find_experiment(name: str) -> Experiment:
    """Return the named experiment."""
    if name not in EXPERIMENTS:
        raise RLTransformerError(
            f"no experiment {name!r}", where="reproduce", fix=f"choose one of {', '.join(EXPERIMENTS)}"
        )
    module, _, found = EXPERIMENTS[name].partition(":")
    return getattr(import_module(f"rl_transformer.reproductions.{module}"), found)()
