"""The papers' experiments, by name; the module of each is imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rl_transformer.errors import RLTransformerError, did_you_mean

if TYPE_CHECKING:
    from rl_transformer.reproductions.experiment import Experiment

EXPERIMENTS = {
    "key-to-door": "key_to_door:KeyToDoor",
    "graph": "graph:Graph",
    "context": "context:Context",
    "delayed": "baselines:Delayed",
    "delayed-longer": "baselines:DelayedLonger",
    "percent-bc": "baselines:PercentBC",
    "return-control": "return_control:ReturnControl",
    "gambling": "failure_modes:Gambling",
    "stitching": "failure_modes:Stitching",
    "locomotion": "locomotion:Locomotion",
    "small-data": "baselines:SmallData",
    "wikipedia": "wikipedia:Wikipedia",
    "wikipedia-2": "wikipedia_2:Wikipedia2",
    "wikipedia-3": "wikipedia_3:Wikipedia3",
    "scaling": "scaling:Scaling",
    "atari": "atari:Atari",
    "door": "door:Door",
    "judge": "judge:Judge",
    "judge-environments": "judge_environments:JudgeEnvironments",
}


def find_experiment(name: str, *, replay_of: str | None = None) -> Experiment:
    """Return the named experiment; with ``replay_of`` the one on the replay buffers of that Atari game."""
    if replay_of is not None:
        from rl_transformer.reproductions.atari_replay import AtariReplay

        return AtariReplay()
    if name not in EXPERIMENTS:
        fix = f"{did_you_mean(name, EXPERIMENTS)}choose one of {', '.join(EXPERIMENTS)}"
        raise RLTransformerError(f"no experiment {name!r}", where="reproduce", fix=fix)
    module, _, attribute = EXPERIMENTS[name].partition(":")
    return getattr(import_module(f"rl_transformer.reproductions.{module}"), attribute)()
