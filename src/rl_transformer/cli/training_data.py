"""Find the data that a run was trained on."""

from __future__ import annotations

from pathlib import Path

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.reading import read_json


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
