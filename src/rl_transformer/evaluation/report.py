"""Hold the result of an evaluation: every episode, and the mean with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np

from rl_transformer.conditions.interface import Target, target_text
from rl_transformer.evaluation.statistics import (
    interquartile_mean,
    mean_interval,
    normalized_score,
    rank_correlation,
    standard_error,
)
from rl_transformer.runtime.types import JsonObject


class Outcome(Protocol):
    """Describes the part of an episode that a report uses."""

    episode_return: float
    episode_length: int
    outcomes: dict[str, float]


@dataclass
class TargetReport:
    """Summarizes the episodes of one target return, in the environment's units."""

    target_return: float | None
    episode_returns: list[float]
    episode_lengths: list[int]
    mean: float
    standard_error: float | None
    interval: list[float] | None
    """95 % bootstrap interval of the mean; None for fewer than two episodes."""
    interval_over: str
    """Unit that the interval was resampled over: episodes of one policy, or training_seeds."""
    interquartile_mean: float
    normalized_score: float | None
    reference: str | None
    """Source of the reference scores of the normalized score; None without them."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Targets of further conditions, by name."""
    episode_outcomes: dict[str, list[float]] = field(default_factory=dict)
    """Sum over each episode, per further outcome such as cost, in the environment's units."""

    @classmethod
    def from_episodes(
        cls, target: float | None, episodes: Sequence[Outcome], reference: str | None, targets: Mapping[str, Target]
    ) -> TargetReport:
        """Return the summary of episodes that one policy ran with one target."""
        # Plain floats: asdict() and JSON would otherwise have to deal with NumPy scalars.
        returns = [float(episode.episode_return) for episode in episodes]
        names = sorted({name for episode in episodes for name in episode.outcomes})
        interval = mean_interval(returns)
        mean = float(np.mean(returns))
        return cls(
            target_return=target,
            episode_returns=returns,
            episode_lengths=[int(episode.episode_length) for episode in episodes],
            mean=mean,
            standard_error=standard_error(returns),
            interval=None if interval is None else list(interval),
            interval_over="episodes",
            interquartile_mean=interquartile_mean(returns),
            normalized_score=normalized_score(mean, reference),
            reference=None if reference is None else f"d4rl/infos.py: {reference}",
            targets=dict(targets),
            episode_outcomes={name: [float(e.outcomes.get(name, 0.0)) for e in episodes] for name in names},
        )


@dataclass
class EvaluationReport:
    """Holds the evaluation of one policy with one or more targets."""

    env_id: str
    policy: str
    """Content hash of the policy."""
    num_episodes: int
    """Episodes per target return."""
    seed: int
    """Seed of each target's first episode; later episodes count up, so every target has the same seeds."""
    targets: list[TargetReport]
    versions: dict[str, str] = field(default_factory=dict)
    recordings: list[list[np.ndarray]] = field(default_factory=list, repr=False)
    """Frames of the first target's first episodes, if recorded; not part of `to_dict`."""

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation of target and mean achieved returns; None where it is undefined."""
        # A policy that takes no target has a single report without one.
        given = [t.target_return for t in self.targets if t.target_return is not None]
        return rank_correlation(given, [t.mean for t in self.targets]) if len(given) == len(self.targets) else None

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; undefined ones are None."""
        values = {**asdict(self), "rank_correlation": self.rank_correlation}
        del values["recordings"]  # images; `save_video` writes them
        return values

    def __str__(self) -> str:
        rows = [f"{'target':>10} {'achieved':>10} {'95 % interval':>22} {'IQM':>10} {'episodes':>9}"]
        for t in self.targets:
            target = "-" if t.target_return is None else f"{t.target_return:g}"
            interval = "-" if t.interval is None else f"[{t.interval[0]:.1f}, {t.interval[1]:.1f}]"
            row = (
                f"{target:>10} {t.mean:>10.1f} {interval:>22} {t.interquartile_mean:>10.1f} {len(t.episode_returns):>9}"
            )
            if t.normalized_score is not None:
                row += f"   normalized {t.normalized_score:.1f} ({t.reference})"
            for name, totals in t.episode_outcomes.items():
                row += f"   mean {name} {np.mean(totals):.4g}"
            for name, value in t.targets.items():
                row += f" (target {name} {target_text(value)})"
            rows.append(row)
        # The line says what the intervals cover: the luck of the episodes, and not that of training another seed.
        return f"{self.env_id}, seeds from {self.seed} (interval over episodes of one policy)\n" + "\n".join(rows)
