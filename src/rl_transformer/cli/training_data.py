"""Find the data that a run was trained on, and the part of it that it held out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.reading import read_json

if TYPE_CHECKING:
    from rl_transformer.windows.selection import SelectedData


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


def selected_data(folder: Path) -> SelectedData | None:
    """Return the data of a run with the episodes that it learned from and held out; None if it cannot be found."""
    from rl_transformer.trajectories.open import open_training_data
    from rl_transformer.windows.selection import select_data

    # The folder may have come from another machine, without its data; the caller then says what was not checked.
    try:
        options = run_options(folder, fix="judge on other data")
        return select_data(open_training_data(options.dataset), options)
    except RLTransformerError:  # moved, in memory, or of a policy that came without its run
        return None
