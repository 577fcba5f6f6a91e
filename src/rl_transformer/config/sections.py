"""Declare the sections of a run's configuration: every option with its default, bounds and one line of help.

Unless a comment says otherwise, defaults are those of the published Gym experiments (Chen et al. 2021, appendix A;
code: kzl/decision-transformer, gym/experiment.py). Options that add something to them are off by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rl_transformer.config.base import Problem, Section, option
from rl_transformer.config.evaluation import EvaluationConfig as EvaluationConfig
from rl_transformer.config.language import LanguageConfig as LanguageConfig
from rl_transformer.config.returns import ReturnConfig as ReturnConfig


@dataclass(kw_only=True)
class DataConfig(Section):
    """Select the logged data to learn from."""

    uri: str = option("", "Logged data as SCHEME:PATH; rlt inspect --help lists the schemes.", common=True)
    observe: list[str] = option([], "Parts of Dict and Tuple observations to use, as names or globs; []: all.")
    clip_actions: bool = option(False, "Clip logged actions to their bounds and count them, instead of refusing them.")
    # A fraction of timesteps, not of episodes, as in kzl `experiment.py` (pct_traj) and section 5.1 of the paper: the
    # best episodes are often the longest.
    top_fraction: float = option(
        1.0,
        "%BC: keep the highest-return episodes until they make up this fraction of all timesteps.",
        above=0,
        at_most=1,
        common=True,
    )
    min_return: float | None = option(None, "Learn only from episodes with at least this return.")
    max_trajectories: int | None = option(None, "Learn only from the first N episodes.", above=0)
    validation_fraction: float = option(
        0.0, "Fraction of episodes held out to measure the action error.", at_least=0, at_most=1, common=True
    )


@dataclass(kw_only=True)
class ModelConfig(Section):
    """Define the network. Sizes that follow from the data are not options."""

    arch: Literal["decision_transformer", "behavior_cloning"] = option(
        "decision_transformer",
        "decision_transformer, or behavior_cloning: an MLP on the last context_length observations.",
        common=True,
    )
    conditions: list[str] = option(
        ["return_to_go"],
        "Quantities that the policy is conditioned on; [] gives behavior cloning with a transformer.",
        common=True,
    )
    condition_entry: Literal["token", "added"] = option(
        "token", "token: one token per condition, as published; added: added to the observation's token."
    )
    action_head: str = option(
        "auto",
        "auto: the default head of the action space; or continuous, discrete, gaussian, multi_discrete.",
        common=True,
    )
    # The published models for vectors end in a tanh as well, because D4RL's actions are in [-1, 1].
    action_tanh: bool = option(True, "Squash continuous actions into the bounds of the action space.")
    state_encoder: str = option(
        "auto", "auto: vector or nature_cnn, whichever fits; or impala for images; or a registered encoder."
    )
    # Names from here to attn_pdrop are those of transformers' DecisionTransformerConfig.
    hidden_size: int = option(128, "Width of a token.", above=0, common=True)
    n_layer: int = option(3, "Transformer blocks, or hidden layers of the MLP.", above=0, common=True)
    n_head: int = option(1, "Attention heads; must divide hidden_size.", above=0, common=True)
    n_inner: int | None = option(None, "Width of a block's MLP; null: 4 * hidden_size.", above=0)
    activation_function: Literal["relu", "gelu", "gelu_new", "silu", "tanh"] = option(
        "relu", "Activation of a block's MLP."
    )
    resid_pdrop: float = option(0.1, "Dropout on the residual branches.", at_least=0, below=1)
    embd_pdrop: float = option(0.1, "Dropout on the token embeddings.", at_least=0, below=1)
    attn_pdrop: float = option(0.1, "Dropout on the attention weights.", at_least=0, below=1)
    max_ep_len: int | None = option(
        None, "Rows of the timestep table; null: the longest episode. Later timesteps reuse the last row.", above=0
    )
    initializer_range: float = option(0.02, "Standard deviation of the blocks' initial weights.", at_least=0)
    # 1.0 is nn.Embedding's default, which the published code uses. The sum of a token and its timestep is then
    # dominated by the timestep at first; our own recipes start with 0.02 instead.
    timestep_initializer_range: float = option(1.0, "Standard deviation of the initial timestep table.", at_least=0)
    # One token keeps sequences short; parts of their own let attention choose among cameras.
    stream_entry: Literal["sum", "tokens"] = option(
        "sum",
        "Observations of images beside other parts: sum adds their tokens to one; tokens gives each image, and all numbers, its own.",
    )
    timestep_embedding: Literal["before_norm", "after_norm", "window"] = option(
        "before_norm",
        "Add it before the tokens' layer norm, as published, or after it (Reid et al.'s code); window: as published for "
        "Atari, one timestep per window, positions in it, and tanh instead of the norm.",
    )
    frame_stack: int = option(1, "Images per state, the newest last.", above=0)
    attention: Literal["full", "sliding_window"] = option(
        "full",
        "full: every earlier token of the window; sliding_window: the last context_length timesteps in every layer, "
        "which allows a KV cache while acting.",
    )
    embedding: Literal["linear", "mlp"] = option(
        "linear", "Embedding and readout of vectors: one linear layer, as published, or a two-layer MLP (LaMo)."
    )
    blocks: str = option("gpt2", "Transformer blocks of a policy without model.trunk: gpt2, or a registered trunk.")
    trunk: str | None = option(
        None,
        "Hugging Face transformer to start from: a Hub id (gpt2, ID@REVISION), a folder, or a run of rlt pretrain.",
        not_empty=True,
        common=True,
    )
    # The controls of Reid et al. (2022) and later work: what remains of an effect with them is not due to pretraining.
    trunk_weights: Literal["pretrained", "random", "shuffled"] = option(
        "pretrained",
        "Weights of the trunk: pretrained; or as controls: random, or pretrained but shuffled within each matrix.",
    )
    positions: Literal["off", "tokens", "timesteps"] = option(
        "off",
        "Use of the trunk's position table: off; added by token index; or copied to the timestep table (Reid et al.).",
    )
    tie_action_head: bool = option(
        False, "Use the weights of the action embedding in the action head, too (Reid et al.)."
    )

    def problems(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for contradictions between the options of the network."""
        if self.action_head == "gaussian" and not self.action_tanh:
            yield "action_tanh", "the gaussian head always squashes its actions", "leave it true"
        if self.attention == "sliding_window" and (self.trunk or self.positions != "off"):
            yield "attention", "a pretrained trunk attends to the full window", "use full"
        if self.tie_action_head and (self.action_head == "gaussian" or self.embedding != "linear"):
            problem = "needs a linear embedding and a head with one output per action dimension"
            yield "tie_action_head", problem, "leave it false, or use model.embedding linear and another head"
        if len(set(self.conditions)) < len(self.conditions):
            yield "conditions", f"{self.conditions} repeats a name", "name each condition once"


@dataclass(kw_only=True)
class WindowConfig(Section):
    """Select the windows of episodes that the model learns from."""

    # K = 20 is the published value for Hopper, HalfCheetah and Walker2d.
    context_length: int = option(
        20,
        "Context length K: timesteps that a prediction can see; with sliding-window attention, in each layer.",
        above=0,
        common=True,
    )
    window_length: int | None = option(
        None,
        "Timesteps per training window; null: context_length, or three times that with sliding-window attention.",
        above=0,
    )
    start: Literal["any", "first"] = option(
        "any", "First timestep of a window: any timestep, as published, or the first one of its episode."
    )
    return_balance: float = option(
        0.0,
        "Fraction of each batch drawn uniformly over bins of return instead of over timesteps.",
        at_least=0,
        at_most=1,
        common=True,
    )


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


@dataclass(kw_only=True)
class PolicyConfig(Section):
    """Define how the finished policy acts."""

    action_selection: Literal["greedy", "sample"] = option(
        "greedy", "greedy, or sample from the distribution of the action head."
    )
    suggested_targets: list[float] | None = option(
        None,
        "Target returns to suggest, the largest as the default; null: quartiles and maximum, and the advised one is the default.",
        not_empty=True,
    )
    target: Literal["given", "generated"] = option(
        "given", "Target return: given by the caller, or generated by the return model at every step."
    )
    support_size: int = option(
        1024, "Training observations to store, to which live ones are compared; 0: none.", at_least=0, at_most=1024
    )
    # The exponent is that of the paper's shortest paths (Chen et al. 2021, appendix). The floor is ours: a large
    # exponent would otherwise select returns that the model considers almost impossible.
    prior_exponent: float = option(
        10.0, "With generated targets: exponent by which likely returns are weighted towards high ones.", at_least=0
    )
    prior_floor: float = option(
        0.001, "With generated targets: returns less likely than this are never selected.", at_least=0, below=1
    )
