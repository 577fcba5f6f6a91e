"""The page of an experiment: verdict first, then rules, figures, and what they do not say."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl_transformer.evaluation import plots
from rl_transformer.reproductions.reproduction import Experiment, Measured, Setup, Summary
from rl_transformer.runtime.files import write_text

_MARKS = {True: "holds", False: "**fails**", None: "cannot be said"}
_VERDICTS = {
    "pass": "# {title}: PASS",
    "fail": "# {title}: FAIL",
    "not established": "# {title}: not established",
}
_TAGS = {
    "[F]": "[F] read in the authors' code or paper",
    "[S]": "[S] read in another source that quotes the paper",
    "[C]": "[C] computed without a network, exactly or by simulation",
    "[M]": "[M] recalled, not checked against the paper",
}


def write_page(
    experiment: Experiment, setup: Setup, measured: Measured, summary: Summary, result: dict[str, Any]
) -> None:
    """Write figure.png and README.md beside result.json, and print the table and the verdict."""
    drawn, axes = plots.figure(8, 4.2)
    experiment.draw(measured, summary, axes)
    plots.save(drawn, setup.output / "figure.png")
    write_text(setup.output / "README.md", as_page(experiment, summary, result))
    for row in summary.rows:
        print(f"{row.what:<58} {_score(row.score, row.unit or experiment.unit):>34}   {row.published}")
    for check in result["rules"].values():
        print(f"{_MARKS[check['holds']].strip('*'):>14}: {check['rule']} ({check['found']})")
    print(f"{result['verdict'].upper()}   {setup.output / 'README.md'}", flush=True)


def as_page(experiment: Experiment, summary: Summary, result: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    lines = [_VERDICTS[result["verdict"]].format(title=experiment.title), ""]
    if result["quick"]:
        lines += ["**Quick run: the same code at a smaller size. It shows that it runs, and establishes nothing.**", ""]
    lines += [experiment.question, "", "## The rule, written before the run", ""]
    lines += ["| rule | found | |", "|---|---|---|"]
    lines += [_line(c["rule"], c["found"], _MARKS[c["holds"]]) for c in result["rules"].values()]
    if result["verdict"] == "not established" and not result["quick"]:
        lines += ["", f"A verdict needs {experiment.enough_seeds} seeds or more; this run has {result['seeds']}."]
    over = result["interval_over"].replace("_", " ")
    lines += ["", "## Figures", "", f"| | ours: mean [95 % interval over {over}] | published |", "|---|---|---|"]
    lines += [_line(row.what, _score(row.score, row.unit or experiment.unit), row.published) for row in summary.rows]
    tags = [meaning for tag, meaning in _TAGS.items() if any(tag in row.published for row in summary.rows)]
    lines += ["", *([f"Sources: {'; '.join(tags)}.", ""] if tags else []), "![figure](figure.png)", ""]
    lines += ["## Not as in the paper", "", *[f"- {text}" for text in experiment.differs], ""]
    lines += ["## Unknown", "", *[f"- {text}" for text in experiment.unknown], ""]
    machine = result["hardware"]
    lines += [
        "## Run it again",
        "",
        "```bash",
        result["command"],
        "```",
        "",
        f"{result['core_seconds'] / 60:.0f} minutes of one core ({machine.get('processor', machine['machine'])}, "
        f"{machine['cores']} cores), one thread a cell, "
        "without the policies that other experiments had trained before. Versions: "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + f". Cells measured at commit {', '.join(commit[:10] for commit in result['git_commits'])}. Every cell is in "
        "`cells/`, the whole in `result.json`.",
        "",
    ]
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _score(score: dict[str, Any], unit: str) -> str:
    factor, digits = (100, 1) if unit == "%" else (1, 1 if abs(score["mean"]) >= 100 else 3)
    suffix = " %" if unit == "%" else ""
    text = f"{factor * score['mean']:.{digits}f}{suffix}"
    if score["interval"] is None:
        return f"{text} (one value)"
    bounds = np.clip(score["interval"], 0, 1) if unit == "%" else score["interval"]  # a rate ends at 0 and 100 %
    low, high = (f"{factor * bound:.{digits}f}" for bound in bounds)
    return f"{text} [{low}, {high}], {len(score['values'])} values"
