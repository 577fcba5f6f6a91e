"""Find the data that a run was trained on, and the part of it that it held out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.reading import read_json

if TYPE_CHECKING:
    from rl_transformer.trajectories import TrajectoryDataset


def run_options(folder: Path, *, fix: str) -> RunConfig:
    """Return the options of a run whose data has a URI.

    Raises:
        RLTransformerError: The folder holds a policy without its run, or data in memory; ``fix`` says what to do.
    """
    if (folder / "config.json").exists():
        options = RunConfig.from_dict(read_json(folder / "config.json", fix=fix), where=folder / "config.json")
        if options.dataset.uri:
            return options
    raise RLTransformerError("a policy folder does not say where its data is", where="--data", fix=fix)


def training_and_held_out(
    folder: Path, dataset: TrajectoryDataset
) -> tuple[TrajectoryDataset | None, TrajectoryDataset | None]:
    """Return the episodes that a run learned from, and those of its data that it held out if that is ``dataset``.

    The first is None if the data cannot be found, the second unless episodes of ``dataset`` itself were held out.
    """
    from rl_transformer.trajectories.open import open_training_data
    from rl_transformer.trajectories.subset import take_episodes
    from rl_transformer.windows.selection import select_data

    # The folder may have come from another machine, without its data; the caller then says what was not checked.
    try:
        options = run_options(folder, fix="judge on other data")
        trained_on = open_training_data(options.dataset)
        split = select_data(trained_on, options).split
    except RLTransformerError:  # moved, in memory, or of a policy that came without its run
        return None, None
    is_same = trained_on.fingerprint == dataset.fingerprint and len(split.held_out) > 0
    held_out = take_episodes(trained_on, split.held_out) if is_same else None
    return take_episodes(trained_on, split.train), held_out
