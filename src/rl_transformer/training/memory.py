"""Name the options that decide how much memory a run needs, if it does not get that much."""

from __future__ import annotations

from contextlib import AbstractContextManager

from rl_transformer.config import RunConfig
from rl_transformer.runtime.memory import translate_memory_errors

_OPTIONS = ("training.batch_size", "windows.context_length", "model.hidden_size", "model.n_layer")


def translate_memory_errors_of(config: RunConfig) -> AbstractContextManager[None]:
    """Return a block in which memory that runs out is an `RLTransformerError` with the sizes of the run."""
    values = config.to_dict()
    sizes = []
    for option in _OPTIONS:
        section, _, name = option.partition(".")
        sizes.append(f"{option} {values[section][name]}")
    fix = "lower one of them and train into another folder"
    return translate_memory_errors(f"{', '.join(sizes)}", where=f"training on {config.training.device}", fix=fix)
