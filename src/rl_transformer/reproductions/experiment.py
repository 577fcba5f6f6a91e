"""What an experiment is: cells to measure, and rules by which the measurements are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rl_transformer.evaluation.differences import Check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JSON = dict[str, Any]
"""JSON-ready values by name."""
Cell = JSON
"""What makes one measurement: plain values such as {"arm": "bc", "seed": 0}."""
Measured = list[JSON]
"""Cells, each with what was measured in it."""
Score = JSON
"""Mean, interval and values of one measure, from `over_seeds`."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the user chose."""

    quick: bool
    seeds: int
    output: Path
    data: str | None = None
    env_id: str | None = None
    tuning_data: str | None = None
    """Data on which options are chosen; None: ``data``."""
    text: str | None = None
    language_model: str | None = None
    """Folder of a language model."""
    device: str = "cpu"
    """Device that policies are trained and evaluated on."""
    game: str | None = None
    replay: str | None = None

    @property
    def runs(self) -> Path:
        """Folder of data and trained policies, shared by the experiments of one place; safe to delete."""
        return self.output.parent / ".runs"


@dataclass(frozen=True)
class Row:
    """A line of the result's table."""

    what: str
    score: Score
    published: str = "-"
    """The published figure with its source tag."""
    unit: str | None = None
    """Unit of the score, if it is not the experiment's."""


@dataclass
class Summary:
    """What the cells say together."""

    rows: list[Row]
    checks: dict[str, Check]
    """By the names of the rules."""
    figures: JSON = field(default_factory=dict)
    """Further numbers for result.json."""


class Experiment(ABC):
    """One experiment; the class attributes are the text of its page."""

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    rules: ClassVar[dict[str, str]]
    """The rule in parts, all of which must hold, by a short name. The names are part of result.json."""
    unit: ClassVar[str] = "%"
    """Unit of the table: % for rates, or the name of a score."""
    differs: ClassVar[Sequence[str]]
    """What is not as in the paper."""
    unknown: ClassVar[Sequence[str]]
    """What the paper does not say, or what could not be checked."""
    seeds: ClassVar[int] = 5
    quick_seeds: ClassVar[int] = 1
    enough_seeds: ClassVar[int] = 5
    """Below so many seeds nothing is established, whatever the figures are."""
    takes_data: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False
    takes_tuning_data: ClassVar[bool] = False
    takes_language_model: ClassVar[bool] = False

    def interval_over(self, setup: Setup) -> str:
        """Return what the intervals are over."""
        return "training_seeds"

    @abstractmethod
    def recipe(self, setup: Setup) -> JSON:
        """Return everything that determines the figures but the seeds."""

    def prepare(self, setup: Setup) -> JSON:
        """Make what all cells need, once, refuse what cannot work, and return what identifies the data."""
        return {}

    @abstractmethod
    def cells(self, setup: Setup) -> list[Cell]:
        """Return the cells, those of the first seeds first."""

    @abstractmethod
    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Train and evaluate one cell, and return its measures by name; the names are part of its file."""

    @abstractmethod
    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Bring the cells together and hold them against the rules."""

    @abstractmethod
    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw the figure of the page."""


def pick(measured: Measured, **values: object) -> Measured:
    """Return the cells that have these values."""
    return [row for row in measured if all(row.get(name) == value for name, value in values.items())]


def values_of(measured: Measured, measure: str, **values: object) -> list[Any]:
    """Return one measure of the cells that have these values."""
    return [row[measure] for row in pick(measured, **values)]
