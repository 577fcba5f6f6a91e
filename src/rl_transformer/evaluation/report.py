"""The result of an evaluation: every episode, and the mean with its uncertainty."""

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
    """What a report needs to know of an episode."""

    episode_return: float
    episode_length: int
    outcomes: dict[str, float]


@dataclass
class TargetReport:
    """The episodes of one target return."""

    target_return: float | None
    episode_returns: list[float]
    episode_lengths: list[int]
    mean: float
    standard_error: float | None
    interval: list[float] | None
    """95 % bootstrap interval of the mean; None below two episodes."""
    interval_over: str
    """episodes, or training_seeds."""
    interquartile_mean: float
    normalized_score: float | None
    reference: str | None
    """Where the reference scores come from; None if there are none."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Targets of further conditions, by name."""
    episode_outcomes: dict[str, list[float]] = field(default_factory=dict)
    """For each further outcome, such as cost, its sum over every episode, in the environment's units."""

    @classmethod
    def from_episodes(
        cls, target: float | None, episodes: Sequence[Outcome], reference: str | None, targets: Mapping[str, Target]
    ) -> TargetReport:
        """Summarize episodes of one policy."""
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
    """An evaluation of one policy over targets and episodes."""

    env_id: str
    policy: str
    """Content hash of the policy."""
    num_episodes: int
    """Episodes per target return."""
    seed: int
    """Seed of each target's first episode; later ones count up, the same for every target."""
    targets: list[TargetReport]
    versions: dict[str, str] = field(default_factory=dict)
    recordings: list[list[np.ndarray]] = field(default_factory=list, repr=False)
    """Frames of the first target's first episodes, if they were recorded; not part of `to_dict`."""

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rho between target and mean achieved return."""
        given = [t.target_return for t in self.targets if t.target_return is not None]
        return rank_correlation(given, [t.mean for t in self.targets]) if len(given) == len(self.targets) else None

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values; what is undefined is None."""
        values = {**asdict(self), "rank_correlation": self.rank_correlation}
        del values["recordings"]
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
        return f"{self.env_id}, seeds from {self.seed} (interval over episodes of one policy)\n" + "\n".join(rows)
