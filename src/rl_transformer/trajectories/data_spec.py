"""The spaces of a data set, and what its source says about it."""

from __future__ import annotations

from dataclasses import dataclass

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.spaces import Space

_ACTION_KINDS = ("box", "discrete", "multi_discrete")


@dataclass(frozen=True)
class DataSpec:
    """Spaces of a data set, and what its source says about it (text, never code)."""

    observation_space: Space
    action_space: Space
    source: str = ""
    """Where the data came from, in words."""
    env_id: str | None = None
    """Environment that the source names; shown to the user, never built from here."""

    def __post_init__(self) -> None:
        if self.action_space.kind not in _ACTION_KINDS or self.action_space.is_image:
            raise RLTransformerError(
                f"actions of kind {self.action_space.kind} are not supported",
                where=self.source or "action space",
                fix="use data with Box, Discrete or MultiDiscrete actions",
            )
        if self.observation_space.parts and self.observation_space.has_image:
            raise RLTransformerError(
                "an image inside a dict or tuple observation is not supported",
                where=self.source or "observation space",
                fix="record the image alone, or leave it out",
            )

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        spaces = {"observation_space": self.observation_space.to_dict(), "action_space": self.action_space.to_dict()}
        return {**spaces, "source": self.source, "env_id": self.env_id}

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object) -> DataSpec:
        """Read what `to_dict` returned."""
        observation, action = (
            Space.from_dict(values.get(f"{name}_space", {}), where=where) for name in ("observation", "action")
        )
        return cls(observation, action, str(values.get("source", "")), values.get("env_id"))
