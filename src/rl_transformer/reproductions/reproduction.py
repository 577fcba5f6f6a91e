"""`rlt reproduce`: an experiment of the papers, from data to a judged page.

An experiment is a set of cells (one policy each: an arm and a seed), a measurement of a cell, and
rules that were written before the run. Finished cells are kept, so a run that was stopped goes on
where it was, and more seeds can be added later by the same command.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from rl_transformer.config.run import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import read_json, to_json, write_text
from rl_transformer.runtime.machine import git_commit, describe_hardware, versions
from rl_transformer.config.presets import PRESETS
from rl_transformer.runtime.signals import Interrupted, StopSignals

Cell = dict[str, Any]
"""What makes one measurement: plain values such as {"arm": "bc", "seed": 0}."""
Measured = list[dict[str, Any]]
"""Cells, each with what was measured in it."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the user chose."""

    quick: bool
    seeds: int
    output: Path
    data: str | None = None
    env_id: str | None = None
    text: str | None = None

    @property
    def runs(self) -> Path:
        """Folder of data and trained policies, shared by the experiments of one place; safe to delete."""
        return self.output.parent / ".runs"


@dataclass(frozen=True)
class Row:
    """A line of the result's table."""

    what: str
    score: dict[str, Any]
    """From `over_seeds`."""
    published: str = "-"
    """The published figure with its source tag."""
    unit: str | None = None
    """If it is not the experiment's."""


@dataclass
class Summary:
    """What the cells say together."""

    rows: list[Row]
    checks: dict[str, tuple[bool | None, str]]
    """For each rule: whether it holds (None: cannot be said), and the figures that say so."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Further numbers for result.json."""


class Experiment(ABC):
    """One experiment; the class attributes are what its page says."""

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    rules: ClassVar[dict[str, str]]
    """The pass rule in parts, all of which must hold, by a short name."""
    unit: ClassVar[str] = "%"
    """Unit of the table: % for rates, or the name of a score."""
    differs: ClassVar[Sequence[str]]
    """What is not as in the paper."""
    unknown: ClassVar[Sequence[str]]
    """What the paper does not say, or what could not be checked."""
    seeds: ClassVar[int] = 5
    quick_seeds: ClassVar[int] = 1
    enough_seeds: ClassVar[int] = 5
    """Below so many seeds nothing is established, whatever the figures are."""
    takes_data: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False

    def interval_over(self, setup: Setup) -> str:
        """Return what the intervals are over."""
        return "training_seeds"

    @abstractmethod
    def recipe(self, setup: Setup) -> dict[str, Any]:
        """Return everything that determines the figures but the seeds, as JSON-ready values."""

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make what all cells need, once, refuse what cannot work, and return what identifies the data."""
        return {}

    @abstractmethod
    def cells(self, setup: Setup) -> list[Cell]:
        """Return the cells, those of the first seeds first."""

    @abstractmethod
    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """Train and evaluate one cell."""

    @abstractmethod
    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Bring the cells together and hold them against the rules."""

    @abstractmethod
    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """Draw the figure of the page."""


def pick(measured: Measured, **wanted: Any) -> Measured:
    """Return the cells with these values."""
    return [row for row in measured if all(row.get(name) == value for name, value in wanted.items())]


def values_of(measured: Measured, measure: str, **wanted: Any) -> list[Any]:
    """Return one measure of the cells with these values."""
    return [row[measure] for row in pick(measured, **wanted)]


def reproduce(experiment: Experiment, setup: Setup, *, jobs: int, command: str) -> dict[str, Any]:
    """Measure the cells that are missing, judge, and write result.json, figure.png and README.md.

    Args:
        experiment: From `experiments.find_experiment`.
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

    cells = experiment.cells(setup)
    protocol = _begin(experiment, setup)
    protocol = _begin(experiment, setup, experiment.prepare(setup))
    missing = [cell for cell in cells if not cell_file(setup, cell).exists()]
    print(f"{experiment.name}: {len(cells)} cells, {len(cells) - len(missing)} of them measured before", flush=True)
    began = time.monotonic()
    for done, cell in enumerate(_measure_all(experiment, setup, missing, jobs), start=1):
        spent = time.monotonic() - began
        print(f"{done}/{len(missing)} {_slug(cell)}  {spent:.0f} s", flush=True)
    measured: Measured = [read_json(cell_file(setup, cell), fix="delete this file and repeat") for cell in cells]
    summary = experiment.summarize(measured, setup)
    result = {
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
        "recipe": protocol["recipe"],
        "rules": {
            key: {"rule": rule, "holds": summary.checks[key][0], "found": summary.checks[key][1]}
            for key, rule in experiment.rules.items()
        },
        "rows": [{"what": row.what, **row.score, "published": row.published} for row in summary.rows],
        **summary.figures,
    }
    write_text(setup.output / "result.json", to_json(result))
    write_page(experiment, setup, measured, summary, result)
    return result


def verdict(experiment: Experiment, setup: Setup, summary: Summary) -> str:
    """Return pass, fail or not established. A quick run, or one of few seeds, establishes nothing."""
    held = [summary.checks[key][0] for key in experiment.rules]
    if setup.quick or setup.seeds < experiment.enough_seeds or None in held:
        return "not established"
    return "pass" if all(held) else "fail"


def _begin(experiment: Experiment, setup: Setup, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the protocol before anything is measured; refuse a folder with measurements of another one."""
    path = setup.output / "protocol.json"
    protocol = {
        "name": experiment.name,
        "quick": setup.quick,
        "data": setup.data,
        "env_id": setup.env_id,
        "recipe": experiment.recipe(setup),
        "rules": experiment.rules,
        "presets": {name: _away_from_defaults(PRESETS[name]()) for name in ("fast", "gym", "key-to-door")},
    }
    if data is not None:
        protocol["identity_of_data"] = data
    measured = any((setup.output / "cells").glob("*.json"))
    if path.exists() and measured:
        before = read_json(path, fix="remove the folder, or name another one with --output")
        changed = [key for key in protocol if key in before and before[key] != read_back(protocol[key])]
        if changed:
            raise RLTransformerError(
                f"holds results made with another {', '.join(changed)}",
                where=setup.output,
                fix="name another folder with --output, or remove this one to start again",
            )
    elif not path.exists() and setup.output.exists() and (not setup.output.is_dir() or any(setup.output.iterdir())):
        raise RLTransformerError(
            "is there already and holds no results of rlt reproduce",
            where=setup.output,
            fix="name another folder with --output",
        )
    else:
        write_text(path, to_json(protocol))
    return protocol


def _away_from_defaults(preset: RunConfig) -> dict[str, Any]:
    """Return what a preset sets, by section.field: options that come to exist later do not change it."""
    values, defaults = preset.to_dict(), RunConfig().to_dict()
    return {
        f"{section}.{name}": value
        for section, options in values.items()
        if isinstance(options, dict)
        for name, value in options.items()
        if value != defaults[section][name]
    }


def read_back(value: Any) -> Any:
    """Return a value as it would be read from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))


def _measure_all(experiment: Experiment, setup: Setup, cells: list[Cell], jobs: int) -> Iterator[Cell]:
    """Measure cells and keep each as it is done."""
    if jobs == 1 or len(cells) < 2:
        for cell in cells:
            _measure(experiment, cell, setup)
            yield cell
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-air
    with StopSignals() as signals, ProcessPoolExecutor(jobs, mp_context=context, initializer=_patient_worker) as pool:
        waiting = {pool.submit(_measure_in_worker, experiment, cell, setup): cell for cell in cells}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                signals.check()
                for future in done:
                    cell = waiting.pop(future)
                    future.result()
                    yield cell
        except BaseException as error:
            # Cells at work are stopped in order: a run in training saves a checkpoint, and continues the next time.
            processes = list((pool._processes or {}).values())
            for process in processes:
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            signals.check()  # Ctrl-C reaches the workers too, and may be noticed there first
            if isinstance(error, BrokenProcessPool):
                raise RLTransformerError(
                    "a process that measured a cell was ended from outside (out of memory?); finished cells are kept",
                    where=experiment.name,
                    fix="repeat the command, with a smaller --jobs if memory is short",
                ) from None
            raise


def _patient_worker() -> None:
    """Let a worker finish its checkpoint, however often it is asked to stop."""
    StopSignals.patient = True


def _measure_in_worker(experiment: Experiment, cell: Cell, setup: Setup) -> None:
    try:
        _measure(experiment, cell, setup)
    except Interrupted as error:
        os._exit(error.exit_code)  # back in the pool it would take the next cell


def _measure(experiment: Experiment, cell: Cell, setup: Setup) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        measures = experiment.measure(cell, setup)
    row = {**cell, **measures, "seconds": round(time.monotonic() - began, 1), "git_commit": git_commit()}
    write_text(cell_file(setup, cell), to_json(row))


def cell_file(setup: Setup, cell: Cell) -> Path:
    """Return where a cell's measures are kept."""
    return setup.output / "cells" / f"{_slug(cell)}.json"


def _slug(cell: Cell) -> str:
    return "-".join(str(value) if name == "arm" else f"{name}-{value}" for name, value in cell.items())
