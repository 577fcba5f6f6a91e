"""Write a comparison as text, CSV, LaTeX and a figure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from rl_transformer.evaluation import plots
from rl_transformer.evaluation.comparison import SEEDS, WORDS
from rl_transformer.evaluation.differences import MOST_VALUES, format_number
from rl_transformer.runtime.types import JsonMapping

_COLUMNS = ("name", "mean", "low", "high", "count")
_LONGEST_LABEL = 30
_DIFFERENCES = ("difference", "difference_low", "difference_high", "p_value", "verdict", "seeds_to_settle")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def as_text(comparison: JsonMapping) -> str:
    """Return the comparison as lines for a terminal."""
    unit = WORDS[comparison["unit"]]
    target = comparison["target_return"]
    heading = f"{comparison['env_id']}, target return {'-' if target is None else f'{target:g}'}"
    episodes = f"{comparison['num_episodes']} episodes from seed {comparison['seed']}"
    width = max(len("side"), *(len(side["name"]) for side in comparison["rows"]))
    rows = [f"{'side':<{width}} {'mean':>8} {'95 % interval':>18} {unit + 's':>15}"]
    rows += [
        f"{side['name']:<{width}} {format_number(side['mean']):>8} {_interval(side['interval']):>18} {side['count']:>15}"
        for side in comparison["rows"]
    ]
    lines = [f"{heading}, {episodes} (unit: {unit})", *rows]
    if comparison["unit"] != SEEDS:
        lines.append("one training run per side: episodes say nothing about other training seeds")
    lines += [_sentence(one, comparison) for one in comparison["differences"]]
    if comparison["correction"]:
        number = len(comparison["differences"])
        lines.append(f"p-values and verdicts: after Holm's correction for {number} comparisons; intervals: without")
    return "\n".join([*lines, *(f"note: {note}" for note in comparison["notes"])])


def _sentence(one: JsonMapping, comparison: JsonMapping) -> str:
    """Return a line about one difference."""
    unit = WORDS[comparison["unit"]]
    how = f"paired by {unit}" if comparison["paired"] else "unpaired, Welch"
    p = "" if one["p_value"] is None else f", p = {one['p_value']:.2g}"
    verdict = one["verdict"]
    if comparison["margin"] is not None:
        within = {True: "by less than", False: "by more than", None: "perhaps by more than"}[one["not_worse"]]
        margin = f"the margin {comparison['margin']:g}"
        verdict += {"worse": f", {within} {margin}", "not worse": f" by more than {margin}"}.get(verdict, "")
    difference = _with_interval(one["difference"], one["interval"], "+", missing=", no interval")
    line = f"{one['a']} minus {one['b']}: {difference}"
    return f"{line} ({how}{p}): {verdict}{_outlook(one, unit, comparison['paired'])}"


def _outlook(one: JsonMapping, unit: str, paired: bool) -> str:
    """Return how many values would settle what is not established; empty if it is, or if nothing can be said."""
    if one["verdict"] != "not established" or one["interval"] is None:
        return ""
    if one["seeds_to_settle"] is None:
        return f"; not in sight: more than {MOST_VALUES:,} {unit}s per side would be needed"
    pairs = "" if paired else " per side"
    return f"; {one['seeds_to_settle']} {unit}s{pairs} would settle it if difference and variance stay"


def _interval(interval: Sequence[float] | None, sign: str = "", missing: str = "-") -> str:
    return missing if interval is None else f"[{', '.join(format_number(bound, sign) for bound in interval)}]"


def _with_interval(mean: float, interval: Sequence[float] | None, sign: str = "", missing: str = "") -> str:
    between = "" if interval is None else " "
    return f"{format_number(mean, sign)}{between}{_interval(interval, sign, missing)}"


def as_csv(comparison: JsonMapping) -> str:
    """Return one row per side, with all digits; what is undefined is empty.

    The columns ``difference`` to ``values_needed`` compare with the first side, so they are empty in its row.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, "unit", *_DIFFERENCES])
    for side, one in _rows(comparison):
        low, high = side["interval"] or (None, None)
        row = [side["name"], side["mean"], low, high, side["count"], comparison["unit"]]
        if one is not None:
            row += [one["difference"], *(one["interval"] or (None, None))]
            row += [one["p_value"], one["verdict"], one["seeds_to_settle"]]
        writer.writerow([*row, *[None] * (len(_COLUMNS) + 1 + len(_DIFFERENCES) - len(row))])
    return text.getvalue()


def as_latex(comparison: JsonMapping) -> str:
    """Return a tabular with one row per side; it needs no package."""
    unit = WORDS[comparison["unit"]]
    corrected = " (Holm)" if comparison["correction"] else ""
    rows = [["", "mean, 95 % interval", f"{unit}s", "difference, 95 % interval", f"p{corrected}", "verdict"]]
    for side, one in _rows(comparison):
        row = [side["name"], _with_interval(side["mean"], side["interval"]), str(side["count"])]
        if one is None:
            rows.append([*row, "-", "-", "-"])
            continue
        difference = _with_interval(one["difference"], one["interval"], "+")
        p = "-" if one["p_value"] is None else f"{one['p_value']:.2g}"
        rows.append([*row, difference, p, one["verdict"]])
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    return "\n".join(
        [r"\begin{tabular}{llrlrl}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}", ""]
    )


def _rows(comparison: JsonMapping) -> list[tuple[JsonMapping, JsonMapping | None]]:
    """Return every side with its comparison, which the first one lacks."""
    return list(zip(comparison["rows"], [None, *comparison["differences"]], strict=True))


def _escaped(text: str) -> str:
    """Return text that LaTeX prints as it stands; minus signs are set as such."""
    # Braces keep a bracket at the beginning of a cell from being read as an argument of the line break before it.
    plain = "".join(_LATEX.get(character, character) for character in text)
    plain = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", plain)
    return f"{{{plain}}}" if plain.startswith("[") else plain


def plot_comparison(comparison: JsonMapping, path: Path) -> None:
    """Draw every side's mean with its interval and values into a PNG.

    Raises:
        RLTransformerError: The file cannot be written.
    """
    sides = comparison["rows"]
    drawn, axes = plots.figure(7.0, 1.2 + 0.5 * len(sides))
    plots.bars(axes, [(_label(side["name"]), side) for side in sides], "mean return", f"{WORDS[comparison['unit']]}s")
    plots.save(drawn, path)


def _label(name: str) -> str:
    """Return the end of a long path, beside which bars have room."""
    return name if len(name) <= _LONGEST_LABEL else "..." + name[-_LONGEST_LABEL:]
