"""What was done about the defects of a dataset, finding by finding."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rl_transformer.runtime.types import JsonObject


@dataclass
class Cure:
    """What was done about one kind of defect in one field, or why nothing was."""

    kind: str
    field: str
    level: str
    """Level of the finding."""
    action: str
    """dropped, cut, removed or left."""
    reason: str
    episodes: int = 0
    steps: int = 0
    """Steps that are not in the store because of it."""
    places: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """First episodes of the source, counted from 0."""

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return dict(vars(self))

    def __str__(self) -> str:
        first = f" (first: episode {self.places[0]['episode']})" if self.places else ""
        size = f"{self.episodes} episodes, {self.steps} steps{first}" if self.episodes else "nothing"
        what = f"{self.action} {size}" if self.action != "left" else "left as it is"
        return f"{self.level.upper()}: {self.kind}: {self.field}: {what}: {self.reason}"


@dataclass
class Treatment:
    """What became of the data: every episode and step of the source is in the store or in one of the cures."""

    store: str
    episodes_in: int
    steps_in: int
    episodes_out: int
    steps_out: int
    cures: list[Cure]

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return {**vars(self), "cures": [cure.to_dict() for cure in self.cures]}

    def __str__(self) -> str:
        lines = [
            f"wrote rlt:{self.store}: {self.episodes_out} of {self.episodes_in} episodes, "
            f"{self.steps_out} of {self.steps_in} steps"
        ]
        if 2 * self.steps_out < self.steps_in:
            lines.append("  more than half of the steps were removed: check whether the source can be repaired instead")
        return "\n".join([*lines, *(f"  {cure}" for cure in self.cures)])
