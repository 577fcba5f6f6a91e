"""`rlt reproduce`: an experiment of the papers, from data to a judged page.

An experiment is a set of cells (one policy each: an arm and a seed), a measurement of a cell, and
rules that were written before the run. Finished cells are kept, so a run that was stopped continues
where it was, and more seeds can be added later by the same command.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from rl_transformer.evaluation.differences import all_hold
from rl_transformer.reproductions.cells import cell_file, cell_name, measure_cells, read_cells
from rl_transformer.reproductions.code_hash import code_hash
from rl_transformer.reproductions.experiment import JSON, Cell, Experiment, Measured, Setup, Summary
from rl_transformer.reproductions.protocol import begin_protocol, read_results
from rl_transformer.reproductions.provenance import other_code
from rl_transformer.runtime import log
from rl_transformer.runtime.files import to_json, translate_write_errors, write_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.machine import describe_hardware, versions
from rl_transformer.runtime.reading import read_json


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
    with ExitStack() as stack:
        with translate_write_errors(setup.output):
            stack.enter_context(owned(setup.output.parent / f".{setup.output.name}.lock", what=setup.output))
        return _reproduce(experiment, setup, jobs=jobs, command=command)


def _reproduce(experiment: Experiment, setup: Setup, *, jobs: int, command: str) -> JSON:
    # Twice: a folder that cannot be used is refused before the data is made.
    begin_protocol(experiment, setup)
    protocol = begin_protocol(experiment, setup, experiment.prepare(setup))
    cells = experiment.cells(setup)
    missing = [cell for cell in cells if not cell_file(setup, cell).exists()]
    log.info(f"{experiment.name}: {len(cells)} cells, {len(cells) - len(missing)} of them measured before")
    finished = [cell for cell in cells if cell not in missing]
    others = other_code(read_cells(setup, finished), code_hash(experiment))
    if others:
        found = ", ".join(f"{count} of {name}" for name, count in others.items())
        log.info(
            f"note: {sum(others.values())} of these cells were measured by other code than the present one ({found}); they are "
            f"kept, and the page says so; remove {setup.output / 'cells'} to measure them again"
        )
    began = time.monotonic()
    for count, cell in enumerate(measure_cells(experiment, setup, missing, jobs), start=1):
        log.info(f"{count}/{len(missing)} {cell_name(cell)}  {time.monotonic() - began:.0f} s")
    return _write_results(experiment, setup, protocol, {"command": command, **_describe_machine(setup, missing)})


def judge_again(experiment: Experiment, folder: Path) -> JSON:
    """Hold the cells of a folder against the present rules, without training, and write its results anew.

    Rules that differ from those of the folder were changed after its results had been seen. The earlier rules and what
    they found are kept in protocol.json, and the page lists them.

    Returns:
        The content of result.json.

    Raises:
        RLTransformerError: No finished results of this experiment, or results of another recipe.
    """
    setup, protocol, result = read_results(experiment, folder)
    if protocol["rules"] != experiment.rules:
        earlier = {
            "date": time.strftime("%Y-%m-%d"),
            "seeds": result["seeds"],
            "verdict": result["verdict"],
            "rules": result["rules"],
        }
        changes = [*protocol.get("changed_rules", []), earlier]
        protocol = {**protocol, "rules": experiment.rules, "changed_rules": changes}
        write_text(folder / "protocol.json", to_json(protocol))
    kept = {name: result[name] for name in ("command", "versions", "hardware")}
    return _write_results(experiment, setup, protocol, kept)


def _describe_machine(setup: Setup, measured_now: list[Cell]) -> JSON:
    """Return versions and hardware: the present ones, or the recorded ones if nothing was measured."""
    result = setup.output / "result.json"
    if not measured_now and result.exists():
        recorded = read_json(result, fix="delete this file and repeat")
        return {"versions": recorded["versions"], "hardware": recorded["hardware"]}
    return {"versions": versions(), "hardware": describe_hardware()}


def _write_results(experiment: Experiment, setup: Setup, protocol: JSON, described: JSON) -> JSON:
    from rl_transformer.reproductions.page import write_page

    measured = read_cells(setup, experiment.cells(setup))
    summary = experiment.summarize(measured, setup)
    result = make_result(experiment, setup, measured, summary, protocol, described)
    write_text(setup.output / "result.json", to_json(result))
    write_page(experiment, setup, measured, summary, result)
    return result


def _describe_devices(measured: Measured) -> JSON:
    """Return the GPUs that cells were measured on, and the seconds of these cells; nothing if a CPU measured them all."""
    on_gpu = [row for row in measured if "device" in row]
    if not on_gpu:
        return {}
    seconds = round(sum(row["seconds"] for row in on_gpu), 1)
    versions_of = [", ".join(f"{name} {version}" for name, version in row["versions"].items()) for row in on_gpu]
    devices = {f"{row['device']} ({found})" for row, found in zip(on_gpu, versions_of, strict=True)}
    return {"devices": sorted(devices), "gpu_seconds": seconds}


def verdict(experiment: Experiment, setup: Setup, summary: Summary) -> str:
    """Return pass, fail or not established. A quick run, or one of few seeds, establishes nothing."""
    holds = [summary.checks[name].holds for name in experiment.rules]
    if setup.quick or setup.seeds < experiment.enough_seeds:
        return "not established"
    return {True: "pass", False: "fail", None: "not established"}[all_hold(holds)]


def make_result(
    experiment: Experiment, setup: Setup, measured: Measured, summary: Summary, protocol: JSON, described: JSON
) -> JSON:
    """Return the content of result.json.

    Args:
        experiment: The experiment.
        setup: What the user chose.
        measured: All cells.
        summary: What they say together.
        protocol: The content of protocol.json.
        described: Command, versions and hardware.
    """
    return {
        "name": experiment.name,
        "title": experiment.title,
        "quick": setup.quick,
        "verdict": verdict(experiment, setup, summary),
        **described,
        "git_commits": sorted({row.get("git_commit") or "unknown" for row in measured}),
        "code": sorted({row["code"] for row in measured if "code" in row}),
        "seeds": setup.seeds,
        "interval_over": experiment.interval_over(setup),
        "core_seconds": round(sum(row["seconds"] for row in measured), 1),
        **_describe_devices(measured),
        "recipe": protocol["recipe"],
        "rules": {
            name: {"rule": rule, "holds": summary.checks[name].holds, "found": summary.checks[name].result}
            for name, rule in experiment.rules.items()
        },
        "changed_rules": protocol.get("changed_rules", []),
        "rows": [{"what": row.what, **row.score, "published": row.published} for row in summary.rows],
        **summary.figures,
    }
