"""Describe the targets of a policy for `rlt targets` and for reports: shares of the data, labels, and what to expect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from rl_transformer.policy import Policy

FROM_DATA = "the training data"


def describe_targets(policy: Policy, folder: Path | None = None, given: Sequence[float] = ()) -> JsonObject:
    """Return the advised target and rows {target, share, expected, label, expected_from}; JSON-ready.

    ``share`` is the share of training episodes, or steps if returns belong to steps, that reached at least the target.
    ``expected`` is the mean of an evaluation in the run's report.json where its targets enclose the target, else what the
    training data lets one expect.

    Args:
        policy: The policy.
        folder: Its run folder, whose report.json is used; None: the training data alone.
        given: Targets to describe; empty: the usual ones.

    Raises:
        RLTransformerError: The policy takes no target, or is of a format that did not record what advice needs.
    """
    table = policy.target_table()
    if table is None:
        takes = policy.spec.takes_target
        raise RLTransformerError(
            "was written before advice on targets was stored" if takes else "the policy takes no target return",
            where=folder or "policy",
            fix="train it again" if takes else "name a policy that is conditioned on a return which the caller sets",
        )
    rows = table.rows(list(given) or table.usual())
    evaluated = {} if folder is None else _evaluated(folder)
    for row in rows:
        row["expected_from"] = FROM_DATA
        if len(evaluated) and min(evaluated) <= row["target"] <= max(evaluated):
            known = sorted(evaluated)
            row["expected"] = float(np.interp(row["target"], known, [evaluated[target] for target in known]))
            row["expected_from"] = "the evaluation in report.json"
    returns = policy.spec.returns
    return {
        "advised": table.advised,
        "depends_on_start": table.advice.depends_on_start,
        "unit": returns.note or "sum of the rewards of an episode",
        "share_of": "training episodes" if returns.is_per_episode else "training steps",
        "luck": table.advice.luck,
        "targets": rows,
    }


def targets_text(description: JsonMapping) -> str:
    """Return the description as a table."""
    lines = [f"{'target':>12} {'share':>7} {'expected':>12}  label"]
    for row in description["targets"]:
        mark = "  <- advised" if row["target"] == description["advised"] else ""
        from_evaluation = "" if row["expected_from"] == FROM_DATA else " (evaluated)"
        lines.append(
            f"{row['target']:>12.6g} {row['share']:>7.0%} {row['expected']:>12.6g}  {row['label']}{from_evaluation}{mark}"
        )
    lines.append(
        f"share: of the {description['share_of']} that reached at least the target; target: {description['unit']}"
    )
    if description["depends_on_start"]:
        lines.append(
            "the advised target is chosen at an episode's first observation; the one above is that of all starts"
        )
    return "\n".join(lines)


def _evaluated(folder: Path) -> dict[float, float]:
    """Return what a run's last evaluation achieved by target, in the unit of the targets."""
    from rl_transformer.evaluation.stored_reports import read_report

    if not (folder / "report.json").is_file():
        return {}
    entries = read_report(folder / "report.json").values["targets"]
    return {
        float(entry["target_return"]): float(
            (entry.get("achieved") or {}).get("mean", np.mean(entry["episode_returns"]))
        )
        for entry in entries
        if entry["target_return"] is not None
    }
