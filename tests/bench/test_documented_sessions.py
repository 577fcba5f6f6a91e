"""Claim: the figures about many sessions in README and docs/service.md are those of the committed measurement."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "studies/results/sessions-2cpu-2026-11-25.json").read_text(encoding="utf-8"))
NAMES = {"full": "full", "sliding_window": "sliding window"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["attention"])
def test_the_figures_of_many_sessions_are_those_of_the_file(row):
    assert (row["sessions"], row["threads"]) == (1000, 1)
    ours, one, call = row["ours"], row["baseline"], row["call"]
    action = " / ".join(f"{ours[name]:#.2g}" for name in ("median_ms", "p99_ms"))
    memory = f"{float(format(row['memory_per_session_kib'], '.2g')):g} KiB"
    cells = [NAMES[row["attention"]], f"{action} ms"]
    service = [*cells, f"{call['median_ms']:.0f} / {call['p99_ms']:.0f} ms"]
    service += [f"{one['median_ms']:.2g} / {one['p99_ms']:.2g} ms", memory]
    readme = [*cells, f"{call['median_ms']:.0f} ms", memory]
    assert f"| {' | '.join(service)} |" in (ROOT / "docs/service.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(readme)} |" in (ROOT / "README.md").read_text(encoding="utf-8")
