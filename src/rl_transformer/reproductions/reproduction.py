"""`rlt reproduce`: an experiment of the papers, from data to a judged page.

An experiment is a set of cells (one policy each: an arm and a seed), a measurement of a cell, and
rules that were written before the run. Finished cells are kept, so a run that was stopped continues
where it was, and more seeds can be added later by the same command.
"""

from __future__ import annotations

import time

from rl_transformer.reproductions.cells import cell_file, cell_name, measure_cells, read_cells
from rl_transformer.reproductions.experiment import JSON, Experiment, Measured, Setup, Summary
from rl_transformer.reproductions.protocol import begin_protocol
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, write_text
from rl_transformer.runtime.machine import describe_hardware, versions


def reproduce(experiment: Experiment, setup: Setup, *, jobs: int, command: str) -> JSON:
    """Measure the cells that are missing, judge, and write result.json, figure.png and README.md.

    Args:
        experiment: From `reproductions.find_experiment`.
        setup: What the user chose.
        jobs: Cells at the same time, each on one thread in a process of its own; 1 stays in this process.
        command: What was typed, for the record.

    Returns:
        The content of result.json.

    Raises:
        RLTransformerError: A folder with results of another recipe, or what an experiment refuses.
        Interrupted: SIGTERM or SIGINT; finished cells are kept.
    """
    from rl_transformer.reproductions.page import write_page

    # Twice: a folder that cannot be used is refused before the data is made.
    begin_protocol(experiment, setup)
    protocol = begin_protocol(experiment, setup, experiment.prepare(setup))
    cells = experiment.cells(setup)
    missing = [cell for cell in cells if not cell_file(setup, cell).exists()]
    log.info(f"{experiment.name}: {len(cells)} cells, {len(cells) - len(missing)} of them measured before")
    began = time.monotonic()
    for count, cell in enumerate(measure_cells(experiment, setup, missing, jobs), start=1):
        log.info(f"{count}/{len(missing)} {cell_name(cell)}  {time.monotonic() - began:.0f} s")
    measured = read_cells(setup, cells)
    summary = experiment.summarize(measured, setup)
    result = _make_result(experiment, setup, measured, summary, protocol["recipe"], command)
    write_text(setup.output / "result.json", to_json(result))
    write_page(experiment, setup, measured, summary, result)
    return result


def verdict(experiment: Experiment, setup: Setup, summary: Summary) -> str:
    """Return pass, fail or not established. A quick run, or one of few seeds, establishes nothing."""
    holds = [summary.checks[name].holds for name in experiment.rules]
    if setup.quick or setup.seeds < experiment.enough_seeds or None in holds:
        return "not established"
    return "pass" if all(holds) else "fail"


def _make_result(
    experiment: Experiment, setup: Setup, measured: Measured, summary: Summary, recipe: JSON, command: str
) -> JSON:
    """Return the content of result.json."""
    return {
        "name": experiment.name,
        "title": experiment.title,
        "quick": setup.quick,
        "verdict": verdict(experiment, setup, summary),
        "command": command,
        "versions": versions(),
        "hardware": describe_hardware(),
        "git_commits": sorted({row.get("git_commit") or "unknown" for row in measured}),
        "seeds": setup.seeds,
        "interval_over": experiment.interval_over(setup),
        "core_seconds": round(sum(row["seconds"] for row in measured), 1),
        "recipe": recipe,
        "rules": {
            name: {"rule": rule, "holds": summary.checks[name].holds, "found": summary.checks[name].result}
            for name, rule in experiment.rules.items()
        },
        "rows": [{"what": row.what, **row.score, "published": row.published} for row in summary.rows],
        **summary.figures,
    }
