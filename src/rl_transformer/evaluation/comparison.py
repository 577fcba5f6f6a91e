"""Compare evaluations: differences with intervals, corrected p-values, and what they establish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.differences import (
    Score,
    is_above_zero,
    is_below_zero,
    is_defined,
    not_worse,
    p_value,
    paired_difference,
    unpaired_difference,
    values_needed,
)
from rl_transformer.evaluation.statistics import holm, mean_interval, over_seeds
from rl_transformer.evaluation.stored_reports import Side, check_comparable
from rl_transformer.runtime.types import JsonObject

_LEVEL = 0.05
SEEDS = "training_seeds"
EPISODES = "episodes"
WORDS = {SEEDS: "training seed", EPISODES: "episode"}
"""Units in the singular."""


def compare(sides: Sequence[Side], *, paired: bool = False, margin: float | None = None) -> JsonObject:
    """Return how every other side differs from the first one; JSON-ready, undefined values are None.

    The unit is the training seed or, if every side is a single policy, the episode.

    Args:
        sides: At least two, from `make_side`.
        paired: Compare value by value, for sides of the same training seeds.
        margin: Largest loss that does not matter, in units of the return; above 0.

    Raises:
        RLTransformerError: Fewer than two sides, a margin that is not positive, sides that cannot be compared, or
            ``paired`` with different training seeds.
    """
    if len(sides) < 2:
        fix = "name two or more: rlt compare A B"
        raise RLTransformerError("there is nothing to compare", where="rlt compare", fix=fix)
    if margin is not None and not 0 < margin < np.inf:
        raise RLTransformerError(f"is {margin}", where="--margin", fix="give a finite number above 0")
    check_comparable(sides)
    unit = EPISODES if all(len(side.means) == 1 for side in sides) else SEEDS
    if paired and unit == SEEDS:
        _check_same_seeds(sides)
    scores = [_score(side, unit) for side in sides]
    first = sides[0].reports[next(iter(sides[0].reports))].values
    targets = [side.first["target_return"] for side in sides if side.first["target_return"] is not None]
    return {
        "env_id": first["env_id"],
        "target_return": targets[0] if targets else None,
        "seed": first["seed"],
        "num_episodes": first["num_episodes"],
        "unit": unit,
        "paired": paired,
        "margin": margin,
        "correction": "holm" if len(sides) > 2 else None,
        "rows": scores,
        "differences": _comparisons(scores, unit, paired, margin),
        "notes": _notes(sides, scores),
    }


def _check_same_seeds(sides: Sequence[Side]) -> None:
    for side in sides[1:]:
        seeds = [list(one.means) for one in (sides[0], side)]
        if seeds[0] != seeds[1]:
            known = [", ".join("unknown" if seed is None else str(seed) for seed in one) for one in seeds]
            raise RLTransformerError(
                f"{side.name} has the training seeds {known[1]}, and {sides[0].name} {known[0]}",
                where="--paired",
                fix="leave out --paired, or train the same seeds",
            )


def _score(side: Side, unit: str) -> Score:
    """Return mean, interval and values of one side."""
    means = side.means
    if unit == SEEDS:
        values = list(means.values())
        found = mean_interval(values)
        interval = None if found is None else [found.low, found.high]
    else:
        values = [float(value) for value in side.first["episode_returns"]]
        interval = side.first.get("interval")  # the report's own: it is exact for rates of success
    seeds = [seed for seed in means if seed is not None]
    return {
        **over_seeds(values, unit),
        "name": side.name,
        "interval": interval,
        "count": len(values),
        "training_seeds": seeds,
        "takes_target": side.first["target_return"] is not None,
    }


def _comparisons(scores: Sequence[Score], unit: str, paired: bool, margin: float | None) -> list[JsonObject]:
    """Return the difference of each other side from the first, judged together."""
    baseline, *others = scores
    values = [(score["values"], baseline["values"]) for score in others]
    zero = _corrected([p_value(*pair, paired=paired) for pair in values])
    beyond = None if margin is None else _corrected([p_value(*p, paired=paired, shift=margin) for p in values])
    found = []
    for i, score in enumerate(others):
        difference = (paired_difference if paired else unpaired_difference)(score, baseline, unit)
        is_clear = is_defined(*values[i], paired=paired)
        difference = {**difference, "interval": difference["interval"] if is_clear else None}
        established = None if margin is None else not_worse(difference, margin).holds
        if beyond is not None and not _is_significant(beyond[i]):
            established = None
        # At the level that Holm's correction requires of the smallest p-value; with one comparison it is 0.05.
        needed = values_needed(*values[i], paired=paired, level=_LEVEL / len(others))
        found.append(
            {
                "a": score["name"],
                "b": baseline["name"],
                "difference": difference["mean"],
                "interval": difference["interval"],
                "interval_over": unit,
                "paired": paired,
                "seeds": [len(score["values"]), len(baseline["values"])] if unit == SEEDS else None,
                "test": "paired_student_t" if paired else "welch",
                "p_value": zero[i],
                "verdict": _verdict(difference, zero[i], established),
                "not_worse": established,
                "seeds_to_settle": needed,
            }
        )
    return found


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values after Holm's correction; undefined ones count as 1, and stay undefined."""
    corrected = holm([1.0 if p is None else p for p in p_values])
    return [None if p is None else after for p, after in zip(p_values, corrected, strict=True)]


def _is_significant(p: float | None) -> bool:
    return p is not None and p < _LEVEL


def _verdict(difference: Score, p: float | None, established_not_worse: bool | None) -> str:
    """Return better, worse, not worse or not established; what Holm's correction does not leave is not established."""
    if _is_significant(p) and is_above_zero(difference):
        return "better"
    if _is_significant(p) and is_below_zero(difference):
        return "worse"
    return "not worse" if established_not_worse else "not established"


def _notes(sides: Sequence[Side], scores: Sequence[Score]) -> list[str]:
    """Return lines about what a reader of the figures should know."""
    notes = []
    for side, score in zip(sides, scores, strict=True):
        if score["interval"] is None:
            few = f"it has only one {WORDS[score['interval_over']]}"
            notes.append(f"{side.name} has no interval: {few if score['count'] == 1 else 'its values are all equal'}")
        cut = sum(entry.get("truncated_by_limit", 0) for entry in side.entries.values())
        if cut:
            notes.append(f"{side.name}: {cut} episodes were cut off by the limit of steps")
    if len({score["takes_target"] for score in scores}) > 1:
        free = [score["name"] for score in scores if not score["takes_target"]]
        notes.append(f"takes no target return: {', '.join(free)}")
    policies = [{policy for report in side.reports.values() for policy in report.policies} for side in sides]
    for i, side in enumerate(sides[1:], start=1):
        if any(policies[i] & other for other in policies[:i]):
            notes.append(f"{side.name} holds the same policy as another side")
    versions = [report.values["versions"] for side in sides for report in side.reports.values()]
    names = sorted({name for one in versions for name in one})
    differing = [name for name in names if len({str(one.get(name)) for one in versions}) > 1]
    if differing:
        notes.append(f"the reports were made with different versions of {', '.join(differing)}")
    return notes
