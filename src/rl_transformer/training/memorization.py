"""Say when a policy memorizes its training episodes, or when nothing would show that it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.training.metrics import read_metrics

# The paper's recipe repeats the steps of Hopper about 300 times and memorizes few of them, because they are 400,000; a few
# thousand steps are memorized after far fewer repetitions. The note costs one line, so it comes early.
_MANY_TIMES = 100
# All evaluations have the same windows, so that a small rise is not chance; but it is not worth another run.
_NOTABLE_RISE = 0.05


def repetition_note(config: RunConfig, lengths: np.ndarray) -> str | None:
    """Return a note if each step is trained on so often that it may be memorized, and no held-out loss would show it.

    Args:
        config: The options of the run.
        lengths: (E,) steps of the episodes to train on.
    """
    # Windows longer than an episode are padded, and padding is not trained on.
    predicted = config.training.batch_size * np.minimum(lengths, config.window_length).mean()
    times = config.training.train_steps * predicted / lengths.sum()
    if config.dataset.validation_fraction or times < _MANY_TIMES:
        return None
    return (
        f"note: each of the {lengths.sum():,} steps is trained on about {times:,.0f} times; --dataset.validation_fraction 0.1 "
        "holds episodes out and shows whether the policy memorizes the others"
    )


def memorization_note(folder: Path) -> str | None:
    """Return a note if the loss on held-out episodes in a run's metrics.jsonl was lower before the end."""
    losses = [(row["validation_loss"], row["step"]) for row in read_metrics(folder) if "validation_loss" in row]
    if not losses:
        return None
    lowest, step = min(losses)
    last = losses[-1][0]
    if last - lowest <= _NOTABLE_RISE * abs(lowest):
        return None
    return (
        f"note: the loss on held-out episodes was lowest after {step} updates ({lowest:.4g}) and is {last:.4g} now: the policy "
        f"memorizes its training episodes; train again with --train-steps {step}"
    )
