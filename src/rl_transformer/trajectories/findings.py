"""Findings of the checks of logged data, and their text for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject

LEVELS = ("error", "warning", "info")
GUESSED_SPACE = "guessed space"
"""Kind of the findings about spaces that were not given."""
CLIPPED_ACTIONS = "clipped actions"
"""Kind of the finding that counts clipped actions."""
_ALWAYS_TOLD = (GUESSED_SPACE, CLIPPED_ACTIONS, "unfinished tail")
# Positions that are stored per finding. Data in a wrong unit can have millions of defects, all of the same kind.
MAX_POSITIONS = 20


@dataclass
class Finding:
    """Describes one kind of defect in one field, with its first positions."""

    level: str
    """error: would corrupt training; warning: suspicious; info: worth knowing."""
    kind: str
    field: str
    problem: str
    fix: str
    count: int = 0
    positions: list[dict[str, int]] = dataclasses.field(default_factory=list)
    """First positions: episode and, where they apply, step and feature, all counted from 0."""

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonObject) -> Finding:
        """Return the finding that `to_dict` was called on."""
        # Stores written by the first version have other names for the levels.
        level = {"refuse": "error", "warn": "warning"}.get(values["level"], values["level"])
        return cls(**{**values, "level": level})

    def __str__(self) -> str:
        position = (
            ", ".join(f"{key} {value}" for key, value in self.positions[0].items())
            if self.positions
            else "whole dataset"
        )
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{position}, {self.field}: {self.problem}{more}"


def shifted(positions: Iterable[dict[str, int]], first_episode: int) -> list[dict[str, int]]:
    """Return positions in data whose first episode is number ``first_episode`` of a larger whole."""
    return [{**at, "episode": at["episode"] + first_episode} if "episode" in at else dict(at) for at in positions]


def count_levels(findings: Iterable[Finding]) -> dict[str, int]:
    """Return the number of kinds of findings of each level, most severe first."""
    levels = [finding.level for finding in findings]
    return {level: levels.count(level) for level in LEVELS}


def notable(findings: Iterable[Finding]) -> list[Finding]:
    """Return what a user should see before training: errors, warnings, and everything that was guessed or changed."""
    return [finding for finding in findings if finding.level != "info" or finding.kind in _ALWAYS_TOLD]


def finding_text(finding: Finding) -> str:
    """Return a finding as two lines of text to print: what was found and where, and what to do about it."""
    position = finding.positions[0] if finding.positions else {}
    first = f" (first: {', '.join(f'{key} {value}' for key, value in position.items())})" if position else ""
    times = f", {finding.count} times{first}" if finding.positions or finding.count > 1 else ""
    return f"{finding.level.upper()}: {finding.kind}: {finding.field} {finding.problem}{times}\n  fix: {finding.fix}"


def raise_on_errors(findings: Iterable[Finding], where: object) -> None:
    """Raise one `RLTransformerError` that lists the findings of level error, if there are any.

    Args:
        findings: All findings of a dataset.
        where: The dataset, for the message.

    Raises:
        RLTransformerError: The data would corrupt training.
    """
    # All kinds in one message, so that the user does not have to run the program once per defect.
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f"; and {len(errors) - 5} more kinds" if len(errors) > 5 else ""
        fixes = dict.fromkeys(finding.fix for finding in errors[:5])
        raise RLTransformerError(
            "; ".join(map(str, errors[:5])) + more,
            where=where,
            fix="; ".join(fixes) + " (rlt inspect lists everything)",
        )
