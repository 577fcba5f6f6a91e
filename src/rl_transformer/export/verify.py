"""Verify whatever `rlt verify` is given: a run, a policy folder or an export."""

from __future__ import annotations

from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.export.promises import Report
from rl_transformer.export.verify_export import is_export, verify_export
from rl_transformer.export.verify_policy import verify_policy
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories import TrajectoryDataset


def verify(target: str | Path, dataset: TrajectoryDataset | None = None) -> Report:
    """Return what holds of the promises of a target.

    Args:
        target: A run folder, policy folder or export.
        dataset: Logged data to replay, for policies.

    Raises:
        RLTransformerError: There is nothing that could be verified.
    """
    folder = user_path(target)
    if not folder.is_dir():
        raise RLTransformerError("no such folder", where=folder, fix="name a run, a policy folder or an export")
    if not is_export(folder):
        return verify_policy(folder / "policy" if (folder / "policy").is_dir() else folder, dataset)
    if dataset is not None:
        raise RLTransformerError(
            "an export is verified with its recorded steps", where="--data", fix="leave it out, or name the run"
        )
    return verify_export(folder)
