"""Describe a dataset: its spaces, its source and its environment."""

from __future__ import annotations

from dataclasses import dataclass

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.spaces import Space

_ACTION_KINDS = ("box", "discrete", "multi_discrete")


@dataclass(frozen=True)
class DataSpec:
    """Holds the spaces of a dataset, and the source's description of it, which is text and never code.

    Raises:
        RLTransformerError: Actions or observations of a kind that policies do not support.
    """

    observation_space: Space
    action_space: Space
    source: str = ""
    """Origin of the data, for messages."""
    env_id: str | None = None
    """Gymnasium id that the source names. It is shown to the user; nothing makes this environment by itself."""

    def __post_init__(self) -> None:
        # Checked here, so that data, stores and policies of any origin are rejected with the same message.
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
        """Return the description that `to_dict` was called on.

        Raises:
            RLTransformerError: The values do not describe spaces; ``where`` names the file.
        """
        observation, action = (
            Space.from_dict(values.get(f"{name}_space", {}), where=where) for name in ("observation", "action")
        )
        return cls(observation, action, str(values.get("source", "")), values.get("env_id"))
