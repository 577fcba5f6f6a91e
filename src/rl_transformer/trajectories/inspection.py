"""Describe a dataset for `rlt inspect` and before training."""

from __future__ import annotations

import numpy as np

from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.findings import LEVELS, Finding, finding_text, notable
from rl_transformer.trajectories.spaces import Space

_LARGEST_SQUARED = 1e140
_QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}


def describe(dataset: TrajectoryDataset) -> JsonObject:
    """Return sizes, spaces, distributions of returns and lengths, episode ends and all findings, JSON-ready."""
    summary = dataset.summary
    findings = dataset.findings
    unfinished = ~(summary.terminated | summary.truncated)
    return {
        "uri": dataset.location,
        "fingerprint": dataset.fingerprint,
        "num_trajectories": dataset.num_trajectories,
        "num_steps": dataset.num_steps,
        **dataset.spec.to_dict(),
        "environment_options": dataset.spec.environment_options,
        "environment_note": dataset.spec.environment_note,
        "columns": {
            name: {"dtype": str(c.dtype), "shape": list(c.shape)} for name, c in sorted(dataset.columns.items())
        },
        "returns": distribution(dataset.episode_returns),
        "lengths": distribution(dataset.lengths),
        "ends": {
            # An episode with both flags counts as terminated, so that the three numbers add up to all episodes.
            "terminated": int(summary.terminated.sum()),
            "truncated": int((summary.truncated & ~summary.terminated).sum()),
            "unfinished": int(unfinished.sum()),
        },
        "observation_mean": None if dataset.statistics is None else _finite(dataset.statistics.mean),
        "observation_std": None if dataset.statistics is None else _finite(dataset.statistics.std),
        "findings": [finding.to_dict() for finding in findings],
        # The same rule as `raise_on_errors`, so that `rlt inspect` predicts what `rlt train` does.
        "refused": any(finding.level == LEVELS[0] for finding in findings),
    }


def distribution(values: np.ndarray) -> dict[str, float] | None:
    """Return mean, standard deviation and quartiles; None if there are no values, or one is not finite."""
    if not len(values) or not np.isfinite(values).all():
        return None
    named = {name: float(np.quantile(values, q)) for name, q in _QUANTILES.items()}
    # The squares of larger numbers, and sums of the largest ones, are infinite, which is no JSON.
    largest = float(np.abs(values).max())
    scale = largest if largest > _LARGEST_SQUARED else 1.0
    scaled = values / scale
    return {"mean": scale * float(scaled.mean()), "std": scale * float(scaled.std()), **named}


def as_text(description: JsonObject) -> str:
    """Return the result of `describe` as text to print."""
    d = description
    ends = d["ends"]
    lines = [
        f"{d['uri'] or d['source']}: {d['num_trajectories']} episodes, {d['num_steps']} steps, "
        f"fingerprint {d['fingerprint'][:12]}",
        f"observations {_space(d['observation_space'])}, actions {_space(d['action_space'])}",
        f"ends: {ends['terminated']} terminated, {ends['truncated']} truncated, {ends['unfinished']} unfinished",
    ]
    # Only a suggestion: an environment is made when the user names it, never because a file does.
    if d["environment_note"]:
        lines.append(d["environment_note"])
    for name in ("returns", "lengths"):
        if d[name]:
            lines.append(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in d[name].items()))
    lines += [finding_text(Finding.from_dict(finding)) for finding in d["findings"]]
    lines.append("training would refuse this data" if d["refused"] else "nothing that training would refuse")
    return "\n".join(lines)


def learning_summary(dataset: TrajectoryDataset, episodes: np.ndarray, returns: np.ndarray, unit: str | None) -> str:
    """Return what a run learns from, with the findings that a user should see before hours of training.

    Args:
        dataset: The data.
        episodes: Episodes to learn from.
        returns: Return of every episode of the data.
        unit: What a return is; None: the sum of the rewards of an episode.
    """
    chosen = returns[episodes]
    summary = (
        f"data: {len(episodes)} episodes and {int(dataset.lengths[episodes].sum())} steps to learn from; "
        f"returns{'' if unit is None else f' ({unit})'} {chosen.min():.4g} to {chosen.max():.4g}, mean {chosen.mean():.4g}"
    )
    return "\n".join([summary, *map(finding_text, notable(dataset.findings))])


def _space(space: JsonObject) -> str:
    return str(Space.from_dict(space))


def _finite(values: np.ndarray) -> list[float | None]:
    """Return numbers for JSON, which has no NaN and no infinity."""
    return [float(v) if np.isfinite(v) else None for v in values]
