"""`rlt reproduce NAME --check`: recompute every figure of a page from its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rl_transformer.reproductions.cells import cell_name, read_cells
from rl_transformer.reproductions.experiment import JSON, Experiment, Measured
from rl_transformer.reproductions.page import as_page
from rl_transformer.reproductions.protocol import present_wording, read_back, read_results
from rl_transformer.reproductions.provenance import mean_of_returns
from rl_transformer.reproductions.reproduction import make_result


def check_results(experiment: Experiment, folder: Path) -> list[str]:
    """Return what in a results folder does not follow from its cells and the present code; empty if all of it does.

    Means of cells are recomputed from their episodes, where a cell keeps them, then result.json and README.md from the
    cells.

    Raises:
        RLTransformerError: No finished results of this experiment, or results of another recipe.
    """
    setup, protocol, result = read_results(experiment, folder)
    if protocol["rules"] != experiment.rules:
        return ["protocol.json: the rules are not those of the present code (--judge-again applies them)"]
    cells = experiment.cells(setup)
    measured = read_cells(setup, cells)
    found = [
        f"cells/{cell_name(cell)}.json: is of another cell"
        for cell, row in zip(cells, measured, strict=True)
        if not cell.items() <= row.items()
    ]
    found += list(_wrong_means(measured))
    summary = experiment.summarize(measured, setup)
    described = {name: result[name] for name in ("command", "versions", "hardware")}
    expected = read_back(make_result(experiment, setup, measured, summary, protocol, described))
    assert isinstance(expected, dict)
    recorded = _in_present_wording(result)
    for name in sorted({*expected, *recorded}):
        if not _equal(expected.get(name), recorded.get(name)):
            found.append(f"result.json: {name} does not follow from the cells")
    written = as_page(experiment, summary, expected).splitlines()
    committed = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    if len(written) != len(committed):
        found.append(f"README.md: {len(committed)} lines, {len(written)} follow from the cells")
    found += [
        f"README.md, line {number}: is not what follows from the cells: {line[:60]!r}"
        for number, (line, other) in enumerate(zip(committed, written, strict=False), start=1)
        if _words(line) != _words(other)
    ]
    return found


def _wrong_means(measured: Measured) -> Iterator[str]:
    for row in measured:
        episodes = row.get("episodes")
        if "mean" not in row or episodes is None:
            continue
        # The first target's episodes give the mean; a cell of several targets holds one list for each.
        first = episodes[0] if isinstance(episodes, list) and isinstance(episodes[0], list) else episodes
        if not np.isclose(mean_of_returns(first), row["mean"]):
            yield f"cells: the mean {row['mean']:g} is not that of its episodes, {mean_of_returns(first):g}"


def _in_present_wording(result: JSON) -> JSON:
    """Return a result of this version or an earlier one with the present wording, and fields that had no values."""
    rows = [{**row, "what": present_wording(row["what"])} for row in result["rows"]]
    rules = {name: {**rule, "rule": present_wording(rule["rule"])} for name, rule in result["rules"].items()}
    return {"changed_rules": [], "code": [], **result, "rows": rows, "rules": rules}


def _equal(one: object, other: object) -> bool:
    """Compare JSON values; numbers up to rounding, because sums of another machine differ in their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-9, atol=1e-12))
    return one == other


def _words(line: str) -> list[str]:
    """Return a line's words; versions are listed in another order by JSON."""
    words = re.split(r"[ ,.]+", line)
    return sorted(words) if "Versions: " in line else words
