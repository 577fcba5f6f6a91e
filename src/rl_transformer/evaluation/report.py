"""What an evaluation found: every episode, and what may be said about the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rl_transformer.evaluation.statistics import (
    interquartile_mean,
    mean_interval,
    normalized_score,
    rank_correlation,
    standard_error,
)


@dataclass
class TargetReport:
    """The episodes of one target."""

    target_return: float | None
    episode_returns: list[float]
    episode_lengths: list[int]
    mean: float
    standard_error: float | None
    interval: list[float] | None
    """95 % bootstrap interval of the mean."""
    interval_over: str
    """episodes, or training_seeds."""
    interquartile_mean: float
    normalized_score: float | None
    reference: str | None
    """Where the reference scores come from; None if there are none."""

    @classmethod
    def of(
        cls, target: float | None, returns: Sequence[float], lengths: Sequence[int], reference: str | None
    ) -> TargetReport:
        """Summarize episodes of one policy."""
        interval, mean = mean_interval(returns), float(np.mean(returns))
        return cls(
            target_return=target,
            episode_returns=[float(r) for r in returns],
            episode_lengths=[int(length) for length in lengths],
            mean=mean,
            standard_error=standard_error(returns),
            interval=None if interval is None else list(interval),
            interval_over="episodes",
            interquartile_mean=interquartile_mean(returns),
            normalized_score=normalized_score(mean, reference),
            reference=None if reference is None else f"d4rl/infos.py: {reference}",
        )


@dataclass
class EvaluationReport:
    """An evaluation of one policy over targets and episodes."""

    env_id: str
    policy: str
    """Content hash of the policy."""
    num_episodes: int
    """Episodes a target."""
    seed: int
    """Seed of each target's first episode; later ones count up, the same for every target."""
    targets: list[TargetReport]
    versions: dict[str, str] = field(default_factory=dict)
    recordings: list[list[np.ndarray]] = field(default_factory=list, repr=False)
    """Frames of the first target's first episodes, if they were asked for; not part of `to_dict`."""

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rho between asked and mean achieved return."""
        asked = [t.target_return for t in self.targets if t.target_return is not None]
        return rank_correlation(asked, [t.mean for t in self.targets]) if len(asked) == len(self.targets) else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; what is undefined is None."""
        values = {**asdict(self), "rank_correlation": self.rank_correlation}
        del values["recordings"]
        return values

    def __str__(self) -> str:
        rows = [f"{'asked':>10} {'achieved':>10} {'95 % interval':>22} {'IQM':>10} {'episodes':>9}"]
        for t in self.targets:
            asked = "-" if t.target_return is None else f"{t.target_return:g}"
            interval = "-" if t.interval is None else f"[{t.interval[0]:.1f}, {t.interval[1]:.1f}]"
            rows.append(
                f"{asked:>10} {t.mean:>10.1f} {interval:>22} {t.interquartile_mean:>10.1f} {len(t.episode_returns):>9}"
            )
            if t.normalized_score is not None:
                rows[-1] += f"   normalized {t.normalized_score:.1f} ({t.reference})"
        return f"{self.env_id}, seeds from {self.seed} (interval over episodes of one policy)\n" + "\n".join(rows)
