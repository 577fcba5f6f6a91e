"""Declare the section of options for the optimization, as `config.sections` declares the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rl_transformer.config.base import Problem, Section, option


@dataclass(kw_only=True)
class TrainingConfig(Section):
    """Define the optimization."""

    train_steps: int = option(100_000, "Gradient updates.", above=0, common=True)
    batch_size: int = option(
        64, "Windows per update, summed over all processes (the global batch size).", above=0, common=True
    )
    learning_rate: float = option(1e-4, "Learning rate after the warm-up.", above=0, common=True)
    warmup_steps: int = option(10_000, "Updates over which the learning rate rises linearly.", at_least=0)
    schedule: Literal["constant", "cosine"] = option(
        "constant", "After the warm-up: constant, or a cosine to zero at schedule_steps."
    )
    # An option of its own: if the cosine always ended at train_steps, a run that is continued with more of them would
    # have had other learning rates than the same run without the interruption.
    schedule_steps: int | None = option(
        None, "Update at which the cosine reaches zero; null: train_steps. Set it if you may extend the run.", above=0
    )
    weight_decay: float = option(1e-4, "Decoupled weight decay.", at_least=0)
    # kzl `experiment.py` passes all parameters to one AdamW group, layer norms and biases included; the Atari code
    # decays weight matrices only, as minGPT does.
    decay: Literal["all", "matrices"] = option(
        "all",
        "Parameters with weight decay: all, as published for Gym, or the weights of linear and convolution layers.",
    )
    betas: tuple[float, float] = option((0.9, 0.999), "AdamW's betas.", at_least=0, below=1)
    max_gradient_norm: float | None = option(0.25, "Clip the global gradient norm; null: no clipping.", above=0)
    ema_decay: float = option(
        0.0,
        "Decay of the exponential moving average (EMA) of the weights that the policy uses; 0: the last weights.",
        at_least=0,
        below=1,
    )
    image_shift: int = option(0, "Shift the images of each training window by up to N pixels (DrQ).", at_least=0)
    entropy_weight: float = option(0.0, "Weight of the entropy bonus of the gaussian head.", at_least=0)
    trunk: Literal["full", "frozen", "lora"] = option(
        "full",
        "Train the transformer blocks in full, keep them frozen, or train a low-rank update of their attention (LoRA).",
    )
    lora_rank: int = option(16, "Rank of the LoRA update.", above=0)
    trunk_learning_rate: float | None = option(
        None, "Learning rate of the transformer blocks, on the same schedule; null: learning_rate.", above=0
    )
    trunk_weight_decay: float | None = option(
        None, "Weight decay of the transformer blocks; null: weight_decay.", at_least=0
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32", "bfloat16: autocast of the forward pass; weights stay float32.", common=True
    )
    seed: int = option(
        0, "Seed of initial weights, batches, dropout and the validation split.", at_least=0, below=2**63, common=True
    )
    threads: int | None = option(None, "CPU threads; null: torch's default.", above=0)
    device: str = option("cpu", "cpu, cuda or cuda:N.", common=True)
    checkpoint_every: int = option(
        5_000, "Updates between resumable checkpoints; another one is written at the end.", above=0
    )
    # Two, so that a damaged newest checkpoint does not cost the whole run.
    keep_checkpoints: int = option(2, "Number of verified checkpoints to keep, the newest ones.", above=0)
    tensorboard: bool = option(False, "Also write TensorBoard event files.")
    wandb: bool = option(False, "Also report to Weights & Biases.")

    @property
    def schedule_length(self) -> int:
        """Number of updates that the learning rate schedule spans."""
        return self.train_steps if self.schedule_steps is None else self.schedule_steps

    def problems(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for an option of a schedule that is not used."""
        if self.schedule == "constant" and self.schedule_steps is not None:
            yield "schedule_steps", "has no effect: training.schedule is constant", "leave it out, or use cosine"
