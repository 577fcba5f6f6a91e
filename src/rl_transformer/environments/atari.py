"""Play Atari games by the protocols of the literature. The games need the extra ``atari``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is shown and played. Both kinds show gray frames of 84 x 84 pixels, one per four frames of the game."""

    sticky_actions: float
    """Probability that the game repeats the action before instead of the one that is given."""
    no_ops: int
    """Up to this many actions that do nothing begin an episode, so that episodes of a deterministic game differ."""
    source: str

    @property
    def env_kwargs(self) -> JsonObject:
        """Arguments of ``gymnasium.make``."""
        # The wrapper skips frames itself, because it takes the maximum of the last two: some games draw an object in
        # every second frame only.
        return {"frameskip": 1, "repeat_action_probability": self.sticky_actions}

    @property
    def wrappers(self) -> list[str]:
        """Wrappers around the game, as ``--wrapper`` takes them."""
        return [f'AtariPreprocessing={{"frame_skip": 4, "noop_max": {self.no_ops}, "screen_size": 84}}']


PROTOCOLS = {
    "paper": AtariProtocol(0.0, 30, "Mnih et al. 2015, and the evaluation of Chen et al. 2021"),
    "modern": AtariProtocol(0.25, 0, "Machado et al. 2018"),
}
"""All protocols by their name in ``--atari-protocol``."""


def protocol_of(env_id: str, env_kwargs: JsonMapping, wrappers: Sequence[str]) -> str | None:
    """Return the protocol whose arguments and wrappers these are, or None if there is any difference."""
    if not env_id.startswith("ALE/"):
        return None
    for name, protocol in PROTOCOLS.items():
        if dict(env_kwargs) == protocol.env_kwargs and list(wrappers) == protocol.wrappers:
            return name
    return None


def atari_arguments(env_id: str, protocol: str) -> JsonObject:
    """Return ``env_kwargs`` and ``wrappers`` for `evaluate`, so that a game is played by a protocol.

    Args:
        env_id: A game of ale-py, ``ALE/NAME-v5``.
        protocol: paper or modern.

    Raises:
        RLTransformerError: There is no such protocol, or the environment is not a game of ale-py.
    """
    if protocol not in PROTOCOLS:
        fix = f"choose one of {', '.join(PROTOCOLS)}"
        raise RLTransformerError(f"there is no protocol {protocol!r}", where="--atari-protocol", fix=fix)
    if not env_id.startswith("ALE/"):
        raise RLTransformerError(f"{env_id} is not a game of ale-py", where="--atari-protocol", fix="leave it out")
    return {"env_kwargs": PROTOCOLS[protocol].env_kwargs, "wrappers": PROTOCOLS[protocol].wrappers}
