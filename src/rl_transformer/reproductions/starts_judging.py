"""How starts from language models are judged: the gate of the language model, and contrasts of areas under the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_transformer.evaluation.differences import (
    equivalent,
    format_difference,
    holm_corrected,
    paired_difference,
)
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import JSON, Check, Measured, Row, Score, Summary, pick

GATE = {"short": 2, "long": 128, "gain": 0.1}
"""Tokens of context that are compared, and by how many bits per byte the long one must be better."""
ORDERS = (3, 4, 5)
"""Orders of the n-gram models; the best of them has to be beaten."""
RELEVANT_SHARE = 0.1
"""Share of the area of the reference below which a difference is not relevant."""
GATE_RULE = (
    f"on held-out text it needs fewer bits per byte than Kneser-Ney, and with a context of {GATE['long']} tokens {GATE['gain']} bits "
    f"per byte fewer than with {GATE['short']}; otherwise nothing below is testable"
)
_SHARE_OF_END = 0.9
_LAST_POINTS = 3
_SIGNIFICANT = 0.05
_NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Which arms are compared."""

    titles: Mapping[str, str]
    """Every arm with its text in tables, in their order."""
    lead: str
    """The arm that is claimed to help."""
    controls: Sequence[str]
    """The arms that it is compared with."""
    reference: str
    """The arm whose area and last scores give the margin and the common threshold."""

    def rule(self, what: str, margin_of: str) -> str:
        """Return the rule of one contrast.

        Args:
            what: The control, in words.
            margin_of: The reference, in words.
        """
        return (
            f"{self.lead} helps more than {what}: its area under the learning curve is larger (paired by seed, p < 0.05 after "
            f"Holm's correction for the {_NUMBERS[len(self.controls)]} contrasts), and the 95 % interval of the difference does not lie "
            f"within {100 * RELEVANT_SHARE:.0f} % of the area of {margin_of}, which would be no relevant effect, and fails; else open"
        )


def area_of(row: JSON) -> float:
    """Return the area under a cell's learning curve, as the mean return over its evenly spaced evaluations."""
    return float(np.mean([value for _, value in row["curve"]]))


def is_testable(language: JSON) -> bool:
    """Return whether the language model has learned language, from the cell that measured it."""
    short, long = (language["bits_per_byte"][str(GATE[name])] for name in ("short", "long"))
    return long < min(language["kneser_ney"].values()) and short - long >= GATE["gain"]


def judge(measured: Measured, contrasts: Contrasts) -> Summary:
    """Judge the gate, and the contrasts if there are policies."""
    (language,) = pick(measured, arm="language", kind="text")
    rows = _language_rows(language)
    gate = _gate_check(language)
    figures: JSON = {
        "language": {row["kind"]: row["block_scale"] for row in pick(measured, arm="language") if "block_scale" in row}
    }
    checks = {"language model": gate, **dict.fromkeys(contrasts.controls, Check(None, "not testable"))}
    if any("skipped" in row for row in measured):
        return Summary(rows, checks, figures)
    judged = {arm: pick(measured, arm=arm, rate=None) for arm in contrasts.titles}
    areas = {arm: over_seeds([area_of(row) for row in judged[arm]]) for arm in judged}
    differences = {arm: paired_difference(areas[contrasts.lead], areas[arm]) for arm in contrasts.controls}
    p_values = holm_corrected(differences)
    margin = RELEVANT_SHARE * abs(areas[contrasts.reference]["mean"])
    if gate.holds:
        checks.update({arm: contrast(differences[arm], p_values[arm], margin) for arm in contrasts.controls})
    policy_rows, policy_figures = _describe_arms(judged, areas, contrasts)
    figures |= {
        "contrasts": {arm: {**differences[arm], "p_holm": p_values[arm]} for arm in contrasts.controls},
        **policy_figures,
        "learning_rates": {arm: rows_of[0]["learning_rate"] for arm, rows_of in judged.items()},
        "tuning_areas": _tuning_areas(measured),
    }
    return Summary([*rows, *policy_rows], checks, figures)


def _describe_arms(
    judged: Mapping[str, Measured], areas: Mapping[str, Score], contrasts: Contrasts
) -> tuple[list[Row], JSON]:
    """Return the rows of all arms, and what else is compared without a rule."""
    titles = contrasts.titles
    ends = {arm: over_seeds([_end_of(row) for row in judged[arm]]) for arm in titles}
    threshold = _SHARE_OF_END * ends[contrasts.reference]["mean"]
    updates = {arm: [_updates_to(row, threshold) for row in judged[arm]] for arm in titles}
    rows = [Row(f"{titles[arm]}: area under the curve", areas[arm]) for arm in titles]
    rows += [Row(f"{titles[arm]}: last {_LAST_POINTS} evaluations", ends[arm]) for arm in titles]
    rows += [_speed_row(titles[arm], updates[arm], judged[arm][0]["curve"][-1][0], threshold) for arm in titles]
    rows += [
        Row(f"{titles[arm]}: held-out action error", over_seeds([row["action_error"] for row in judged[arm]]), unit="")
        for arm in titles
    ]
    # Arms that are described and not judged.
    others = [arm for arm in titles if arm not in (contrasts.lead, *contrasts.controls)]
    figures = {
        "not_judged": {arm: paired_difference(areas[contrasts.lead], areas[arm]) for arm in others},
        "ends_not_judged": {arm: paired_difference(ends[contrasts.lead], ends[arm]) for arm in others},
        "threshold": threshold,
        "reached": {arm: sum(found is not None for found in updates[arm]) for arm in titles},
    }
    return rows, figures


def contrast(difference: Score, p_value: float | None, margin: float) -> Check:
    """Return whether a start helps: it does, it has no relevant effect or harms, or that is open.

    Args:
        difference: Areas of text minus those of the other start, paired by seed.
        p_value: After correction; None for a single seed.
        margin: Size of a difference that is not relevant.
    """
    found = format_difference(difference)
    if p_value is None:
        return Check(None, found)
    found = f"{found}, p = {p_value:.2g}, margin {margin:.3g}"
    if equivalent(difference, margin).holds:
        return Check(False, f"{found}: no relevant effect")
    if p_value < _SIGNIFICANT:
        helps = difference["mean"] > 0
        return Check(helps, f"{found}: {'helps' if helps else 'harms'}")
    return Check(None, f"{found}: open")


def _gate_check(language: JSON) -> Check:
    short, long = (language["bits_per_byte"][str(GATE[name])] for name in ("short", "long"))
    order, best = min(language["kneser_ney"].items(), key=lambda item: item[1])
    found = (
        f"{long:.3f} with a context of {GATE['long']}, {short:.3f} with {GATE['short']}, Kneser-Ney {best:.3f} (order {order}, "
        f"the best of {', '.join(map(str, ORDERS))})"
    )
    # A language model that has not learned language is no evidence against the claims: it leaves them open.
    return Check(True, found) if is_testable(language) else Check(None, f"{found}: not testable")


def _language_rows(language: JSON) -> list[Row]:
    values = {
        **{f"language model, context {context}": bits for context, bits in language["bits_per_byte"].items()},
        f"the same, shuffled, context {GATE['long']}": language["shuffled_bits_per_byte"],
        **{f"Kneser-Ney, order {order}": bits for order, bits in language["kneser_ney"].items()},
    }
    return [Row(f"{what}: held-out text", over_seeds([bits]), unit="bits per byte") for what, bits in values.items()]


def _end_of(row: JSON) -> float:
    return float(np.mean([value for _, value in row["curve"][-_LAST_POINTS:]]))


def _updates_to(row: JSON, threshold: float) -> int | None:
    """Return the first evaluation at which a curve reaches the threshold; None if it never does."""
    return next((step for step, value in row["curve"] if value >= threshold), None)


def _speed_row(title: str, updates: list[int | None], last: int, threshold: float) -> Row:
    """Return the updates to a threshold that is the same for all arms; a run that never reaches it counts as all updates."""
    reached = sum(found is not None for found in updates)
    what = f"{title}: to a return of {threshold:.0f}, reached by {reached} of {len(updates)}"
    return Row(what, over_seeds([last if found is None else found for found in updates]), unit="updates")


def _tuning_areas(measured: Measured) -> JSON:
    """Return the areas by arm and learning rate on the data on which rates were chosen, one per seed."""
    areas: JSON = {}
    for row in measured:
        if "rate" in row:
            areas.setdefault(row["arm"], {}).setdefault(f"{row['rate']:g}", []).append(area_of(row))
    return areas
