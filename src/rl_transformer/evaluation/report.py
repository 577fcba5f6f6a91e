"""Hold the result of an evaluation: every episode, and the mean with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np

from rl_transformer.conditions.interface import Target, target_text
from rl_transformer.evaluation.references import Reference
from rl_transformer.evaluation.statistics import (
    CLOPPER_PEARSON,
    STUDENT_T,
    interquartile_mean,
    over_units,
    rank_correlation,
    return_interval,
    standard_error,
)
from rl_transformer.runtime.types import JsonObject

_METHODS = {STUDENT_T: "Student's t", CLOPPER_PEARSON: "Clopper-Pearson"}


class Outcome(Protocol):
    """Describes the part of an episode that a report uses."""

    episode_return: float
    episode_length: int
    advised: float | None
    achieved: float | None
    outcomes: dict[str, float]
    truncated_by_limit: bool


@dataclass
class TargetReport:
    """Summarizes the episodes of one target return, in the environment's units."""

    target_return: float | None
    """None: the policy takes none, or chose one itself in every episode (``episode_targets``)."""
    episode_returns: list[float]
    episode_lengths: list[int]
    mean: float
    standard_error: float | None
    interval: list[float] | None
    """95 % interval of the mean; None for fewer than two units, or equal ones, see `return_interval`."""
    interval_over: str
    """Unit that the interval is over: episodes of one policy, or training_seeds."""
    interval_method: str | None
    """student_t, or clopper_pearson for rates of success; None without an interval."""
    interquartile_mean: float
    normalized_score: float | None
    reference: str | None
    """Source of the reference scores of the normalized score; None without them."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Targets of further conditions, by name."""
    episode_outcomes: dict[str, list[float]] = field(default_factory=dict)
    """Sum over each episode, per further outcome such as cost, in the environment's units."""
    truncated_by_limit: int = 0
    """Episodes that were cut off by the limit of the evaluation (`EvaluationReport.max_steps`)."""
    seed_means: list[float] = field(default_factory=list)
    """Mean return of each training seed; empty for a single policy."""
    target_unit: str | None = None
    """What the target return is, where it is not the sum of the rewards of an episode, as ``mean`` is."""
    episode_targets: list[float] = field(default_factory=list)
    """The advised target of each episode, if none was given."""
    episode_achieved: list[float] = field(default_factory=list)
    """What each episode achieved in that unit; empty where it is the episode's return."""
    achieved: JsonObject | None = None
    """Mean of these, ``interval`` (95 %, as for ``mean``) and ``interval_over``."""

    @property
    def target_text(self) -> str:
        """The target as a person would write it."""
        if self.target_return is not None:
            return f"{self.target_return:g}"
        return "advised" if self.episode_targets else "-"

    @property
    def comparable(self) -> tuple[float, list[float] | None]:
        """Mean and interval of what was achieved in the unit of the target."""
        return (
            (self.mean, self.interval) if self.achieved is None else (self.achieved["mean"], self.achieved["interval"])
        )

    @classmethod
    def from_episodes(
        cls,
        target: float | None,
        episodes: Sequence[Outcome],
        reference: Reference | None,
        targets: Mapping[str, Target],
        *,
        return_range: tuple[float, float] | None = None,
        target_unit: str | None = None,
    ) -> TargetReport:
        """Return the summary of episodes that one policy ran with one target.

        Args:
            target: The target return.
            episodes: The episodes.
            reference: Reference scores of the environment, for the normalized score.
            targets: Targets of further conditions.
            return_range: Smallest and largest return of the training episodes.
            target_unit: What the target return is; None: the sum of the rewards of an episode.
        """
        # Plain floats: asdict() and JSON would otherwise have to deal with NumPy scalars.
        returns = [float(episode.episode_return) for episode in episodes]
        names = sorted({name for episode in episodes for name in episode.outcomes})
        interval = return_interval(returns, return_range)
        mean = float(np.mean(returns))
        achieved = [float(episode.achieved) for episode in episodes if episode.achieved is not None]
        return cls(
            target_return=target,
            episode_returns=returns,
            episode_lengths=[int(episode.episode_length) for episode in episodes],
            mean=mean,
            standard_error=standard_error(returns),
            interval=None if interval is None else [interval.low, interval.high],
            interval_over="episodes",
            interval_method=None if interval is None else interval.method,
            interquartile_mean=interquartile_mean(returns),
            normalized_score=None if reference is None else reference.normalized(mean),
            reference=None if reference is None else str(reference),
            targets=dict(targets),
            episode_outcomes={name: [float(e.outcomes.get(name, 0.0)) for e in episodes] for name in names},
            truncated_by_limit=sum(bool(episode.truncated_by_limit) for episode in episodes),
            target_unit=target_unit,
            episode_targets=[float(episode.advised) for episode in episodes if episode.advised is not None],
            episode_achieved=achieved,
            achieved=over_units(achieved, "episodes") if achieved else None,
        )


@dataclass
class EvaluationReport:
    """Holds the evaluation of one policy with one or more targets."""

    env_id: str
    """Gymnasium id of the environment, or the name of its class."""
    policy: str | list[str]
    """Content hash of the policy; a list with one per training seed for an evaluation of several."""
    num_episodes: int
    """Episodes per target return, and per training seed."""
    seed: int
    """Seed of each target's first episode; later episodes count up, so every target has the same seeds."""
    targets: list[TargetReport]
    versions: dict[str, str] = field(default_factory=dict)
    recordings: list[list[np.ndarray]] = field(default_factory=list, repr=False)
    """Frames of the first target's first episodes, if recorded; not part of `to_dict`."""
    max_steps: int | None = None
    """Steps after which episodes were cut off; None if the environment's own time limit ends them."""
    env_kwargs: JsonObject = field(default_factory=dict)
    """Arguments that the environment was made with."""
    wrappers: list[str] = field(default_factory=list)
    """Wrappers around the environment, the innermost one first."""
    protocol: str | None = None
    """The Atari protocol (paper or modern) that these arguments and wrappers are exactly; else None."""
    environment_note: str | None = None
    """How the environment differs from the one that the data came from; None if nothing is known to differ."""
    training_seeds: list[int] = field(default_factory=list)
    """Training seeds of the policies; empty for a single policy."""

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation of target and mean achieved return, in one unit; None where it is undefined."""
        # A policy that takes no target has a single report without one.
        given = [t.target_return for t in self.targets if t.target_return is not None]
        achieved = [t.comparable[0] for t in self.targets]
        return rank_correlation(given, achieved) if len(given) == len(self.targets) else None

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; undefined ones are None."""
        values = {**asdict(self), "rank_correlation": self.rank_correlation}
        del values["recordings"]  # images; `save_video` writes them
        return values

    def __str__(self) -> str:
        rows = [f"{'target':>10} {'achieved':>10} {'95 % interval':>22} {'IQM':>10} {'episodes':>9}"]
        for t in self.targets:
            target = t.target_text
            interval = "-" if t.interval is None else f"[{t.interval[0]:.1f}, {t.interval[1]:.1f}]"
            row = (
                f"{target:>10} {t.mean:>10.1f} {interval:>22} {t.interquartile_mean:>10.1f} {len(t.episode_returns):>9}"
            )
            if t.normalized_score is not None:
                row += f"   normalized {t.normalized_score:.1f} ({t.reference})"
            if t.achieved is not None:
                row += f"   in the target's unit {t.achieved['mean']:.4g}"
            for name, totals in t.episode_outcomes.items():
                row += f"   mean {name} {np.mean(totals):.4g}"
            for name, value in t.targets.items():
                row += f" (target {name} {target_text(value)})"
            rows.append(row)
        return "\n".join([self._heading(), *rows, *self._notes()])

    def _heading(self) -> str:
        """Return a line that says what was evaluated, and what the intervals are over."""
        # Episodes of one policy say nothing about the luck of training another seed.
        over = f"{len(self.training_seeds)} training seeds" if self.training_seeds else "episodes of one policy"
        methods = sorted({t.interval_method for t in self.targets if t.interval_method})
        method = f", {' and '.join(_METHODS[name] for name in methods)}" if methods else ""
        protocol = f", protocol {self.protocol}" if self.protocol else ""
        return f"{self.env_id}{protocol}, seeds from {self.seed} (interval over {over}{method})"

    def _notes(self) -> list[str]:
        """Return lines about another environment than the data's, missing intervals, and episodes that were cut off."""
        notes = [] if self.environment_note is None else [self.environment_note]
        notes += [
            f"note: the unit of targets: {unit}"
            for unit in sorted({t.target_unit for t in self.targets if t.target_unit})
        ]
        chosen = [target for t in self.targets for target in t.episode_targets]
        if chosen:
            notes.append(
                f"note: the advised target is {_span(chosen)}; rlt targets explains it, and --target-return sets another one"
            )
        if any(t.interval is None for t in self.targets):
            unit = "training seeds" if self.training_seeds else "episodes"
            notes.append(f"note: no interval (-) for fewer than two {unit}, or for {unit} with equal returns")
        cut = sum(t.truncated_by_limit for t in self.targets)
        if cut:
            total = sum(len(t.episode_returns) for t in self.targets)
            notes.append(
                f"note: {cut} of {total} episodes were cut off after {self.max_steps} steps; "
                "--max-steps N (max_steps=N) sets another limit"
            )
        return notes


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}, by the first observation"
