"""The page of an experiment: verdict first, then rules, results, and what they do not show."""

from __future__ import annotations

import numpy as np

from rl_transformer.evaluation import plots
from rl_transformer.reproductions.experiment import JSON, Experiment, Measured, Score, Setup, Summary
from rl_transformer.runtime import log
from rl_transformer.runtime.files import write_text

_MARKS = {True: "holds", False: "**fails**", None: "undecided"}
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


def write_page(experiment: Experiment, setup: Setup, measured: Measured, summary: Summary, result: JSON) -> None:
    """Write figure.png and README.md beside result.json, and print the table and the verdict."""
    drawn, axes = plots.figure(8, 4.2)
    experiment.draw(measured, summary, axes)
    plots.save(drawn, setup.output / "figure.png")
    write_text(setup.output / "README.md", as_page(experiment, summary, result))
    for row in summary.rows:
        log.info(f"{row.what:<58} {_format_score(row.score, row.unit or experiment.unit):>34}   {row.published}")
    for check in result["rules"].values():
        log.info(f"{_MARKS[check['holds']].strip('*'):>14}: {check['rule']} ({check['found']})")
    log.info(f"{result['verdict'].upper()}   {setup.output / 'README.md'}")


def as_page(experiment: Experiment, summary: Summary, result: JSON) -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [
            *_verdict_lines(experiment, result),
            *_result_lines(experiment, summary, result),
            "## Differences from the paper",
            "",
            *[f"- {text}" for text in experiment.differs],
            "",
            "## Unknown",
            "",
            *[f"- {text}" for text in experiment.unknown],
            "",
            *_rerun_lines(result),
        ]
    )


def _verdict_lines(experiment: Experiment, result: JSON) -> list[str]:
    """Return the verdict, the question and the rules."""
    lines = [_VERDICTS[result["verdict"]].format(title=experiment.title), ""]
    if result["quick"]:
        lines += ["**Quick run: the same code at a smaller size. It shows that it runs, and establishes nothing.**", ""]
    heading = (
        "## The rule, changed after the run" if result.get("changed_rules") else "## The rule, written before the run"
    )
    lines += [experiment.question, "", heading, ""]
    lines += ["| rule | result | |", "|---|---|---|"]
    for name in experiment.rules:
        check = result["rules"][name]
        lines.append(_table_row(check["rule"], check["found"], _MARKS[check["holds"]]))
    if result["seeds"] < experiment.enough_seeds and not result["quick"]:
        lines += ["", f"A verdict needs {experiment.enough_seeds} seeds or more; this run has {result['seeds']}."]
    return [*lines, "", *_changed_rules_lines(result)]


def _changed_rules_lines(result: JSON) -> list[str]:
    """Return the rules that were replaced after results had been seen, and what they had found."""
    lines = []
    for change in result.get("changed_rules", []):
        lines += [
            f"**The rules were changed on {change['date']}, after {change['seeds']} seeds had been seen.** Until then the "
            f"verdict was: {change['verdict']}, by these rules:",
            "",
            "| earlier rule | result | |",
            "|---|---|---|",
            *[_table_row(rule["rule"], rule["found"], _MARKS[rule["holds"]]) for rule in change["rules"].values()],
            "",
        ]
    return lines


def _result_lines(experiment: Experiment, summary: Summary, result: JSON) -> list[str]:
    """Return the table of scores, where the published ones come from, and the figure."""
    over = result["interval_over"].replace("_", " ")
    lines = ["## Results", "", f"| | ours: mean [95 % interval over {over}] | published |", "|---|---|---|"]
    for row in summary.rows:
        lines.append(_table_row(row.what, _format_score(row.score, row.unit or experiment.unit), row.published))
    tags = [meaning for tag, meaning in _TAGS.items() if any(tag in row.published for row in summary.rows)]
    return [*lines, "", *([f"Sources: {'; '.join(tags)}.", ""] if tags else []), "![figure](figure.png)", ""]


def _rerun_lines(result: JSON) -> list[str]:
    """Return the command that repeats the run, and what the run took."""
    commits = ", ".join(map(_commit_text, result["git_commits"]))
    return [
        "## Run it again",
        "",
        "```bash",
        result["command"],
        "```",
        "",
        f"{_cost_text(result)} Cells measured at commit {commits}{_code_text(result)}. Every cell is in `cells/`, with its "
        "episodes and the policies it used; policies of the same name on two pages are the same. The summary is in `result.json`, "
        "the rules are in `protocol.json`.",
        "",
    ]


def _cost_text(result: JSON) -> str:
    """Return how long the cells took, and on what: processes that shared a GPU have versions of their own."""
    machine = result["hardware"]
    processor = f"{machine.get('processor', machine['machine'])}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    minutes = f"{result['core_seconds'] / 60:.0f} minutes"
    shared = "one thread per cell, not counting policies that other experiments had trained before."
    if "devices" not in result:
        return f"{minutes} of one core ({processor}), {shared} Versions: {versions}."
    side_by_side = f"of processes that ran side by side on {' or '.join(result['devices'])}"
    # A page whose cells were all measured on GPUs is written by a machine that measured nothing.
    if result["gpu_seconds"] == result["core_seconds"]:
        return f"{minutes} {side_by_side}, {shared}"
    on_gpu = f"{result['gpu_seconds'] / 60:.0f} of them {side_by_side}"
    return f"{minutes}, {on_gpu}, {shared} The others: {processor}; {versions}."


def _commit_text(commit: str) -> str:
    return f"{commit[:10]} with uncommitted changes" if commit.endswith("-dirty") else commit[:10]


def _code_text(result: JSON) -> str:
    """Return which code measured the cells; cells of early versions do not say it."""
    code = result.get("code", [])
    if not code:
        return ""
    return f" (code {code[0]})" if len(code) == 1 else f" by {len(code)} versions of the code ({', '.join(code)})"


def _table_row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _format_score(score: Score, unit: str) -> str:
    """Return mean, interval and number of values as text."""
    is_rate = unit == "%"
    factor = 100 if is_rate else 1
    digits = 1 if is_rate or abs(score["mean"]) >= 100 else 3
    text = f"{factor * score['mean']:.{digits}f}" + (" %" if is_rate else "")
    if score["interval"] is None:
        return f"{text} (one value)"
    bounds = np.clip(score["interval"], 0, 1) if is_rate else score["interval"]  # a rate ends at 0 and 100 %
    low, high = (f"{factor * bound:.{digits}f}" for bound in bounds)
    return f"{text} [{low}, {high}], {len(score['values'])} values"
