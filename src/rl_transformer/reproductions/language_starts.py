"""Policies that start from small language models: what the experiments on language share."""

from __future__ import annotations

import hashlib
import pydoc_data.topics
from pathlib import Path

from rl_transformer.config import RunConfig
from rl_transformer.language.config import KINDS, TextConfig
from rl_transformer.language.pretrain import pretrain
from rl_transformer.language.text import read_text
from rl_transformer.reproductions.experiment import Setup
from rl_transformer.reproductions.run_cache import with_options
from rl_transformer.reproductions.task_data import TaskData
from rl_transformer.runtime.files import write_text
from rl_transformer.runtime.lock import waiting_lock
from rl_transformer.runtime.types import JsonMapping

Start = tuple[str, str]
"""A kind of language model, and which of its weights a policy takes: pretrained, random or shuffled."""


def language_model(kind: str, name: str, options: JsonMapping, text: Path, setup: Setup) -> Path:
    """Pretrain a language model once, on one thread, and return its run folder.

    Args:
        kind: "text", or the kind of random sequences.
        name: Name of the folder; it must differ between models that differ.
        options: Options of the pretraining.
        text: The text file, for the kind "text".
        setup: What the user chose.
    """
    config = with_options(KINDS["text" if kind == "text" else "synthetic"](), options)
    config.training.threads = 1
    config.training.device = setup.device
    if isinstance(config.dataset, TextConfig):
        config.dataset.uri = str(text)
    # A run does not go on with another device, so each device has a folder of its own.
    folder = setup.runs / "language" / (name if setup.device == "cpu" else f"{name}-{setup.device.replace(':', '-')}")
    config.output = str(folder)
    with waiting_lock(folder.with_suffix(".lock")):
        return pretrain(config, resume=True)


def start_from(config: RunConfig, model: Path, weights: str) -> None:
    """Let a policy's blocks start from a language model."""
    config.set("model.trunk", str(model))
    config.set("model.trunk_weights", weights)


def record_curve(config: RunConfig, data: TaskData, target_return: float, *, points: int, episodes: int) -> None:
    """Evaluate a policy while it is trained, at evenly spaced updates."""
    config.dataset.uri = data.uri
    evaluation = config.evaluation
    evaluation.env_id = data.env_id
    evaluation.target_returns = [target_return] if config.model.conditions else []  # cloning takes none
    evaluation.every = config.training.train_steps // points
    evaluation.num_episodes = episodes


def read_curve(rows: list[dict]) -> list[list[float]]:
    """Return the evaluations of a run's metrics: [update, mean return] of each."""
    return [[row["step"], row[name]] for row in rows for name in row if name.startswith("return_at_")]


def text_file(setup: Setup) -> Path:
    """Return the user's text, or the reference of the Python language that comes with it."""
    if setup.text is not None:
        return Path(setup.text)
    path = setup.runs / "data" / "python-reference.txt"
    with waiting_lock(path.with_suffix(".lock")):
        if not path.exists():
            topics = pydoc_data.topics.topics
            write_text(path, "\n".join(topics[name] for name in sorted(topics)))
    return path


def text_hash(setup: Setup) -> str:
    """Return the SHA-256 of the text."""
    return hashlib.sha256(read_text(text_file(setup)).encode()).hexdigest()
