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
from rl_transformer.config.training import TrainingConfig as TrainingConfig


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
        0.0,
        "Fraction of episodes held out to measure loss and action error, which reveals memorization.",
        at_least=0,
        at_most=1,
        common=True,
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
        "Observations that combine images with other parts: sum adds their tokens into one; tokens gives each image, and all numbers together, a token of its own.",
    )
    timestep_embedding: Literal["before_norm", "after_norm", "window"] = option(
        "before_norm",
        "Add it before the tokens' layer norm, as published, or after it (Reid et al.'s code); window: as published for Atari, one timestep per window, positions within it, and tanh instead of the norm.",
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
    init_from: str | None = option(
        None,
        "Run or policy folder whose weights the policy starts from; parts whose size or meaning differs are newly initialized.",
        not_empty=True,
    )
    # Kept, because the weights were trained on inputs in these units.
    init_statistics: Literal["keep", "refit"] = option(
        "keep",
        "With init_from: keep that policy's normalization of observations and its return scale, or refit them.",
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
        if self.init_from and self.trunk:
            problem = f"the weights already come from {self.init_from}"
            yield "trunk", problem, "leave model.trunk out, or model.init_from"
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
class PolicyConfig(Section):
    """Define how the finished policy acts."""

    action_selection: Literal["greedy", "sample"] = option(
        "greedy", "greedy, or sample from the distribution of the action head."
    )
    suggested_targets: list[float] | None = option(
        None,
        "Target returns to suggest, the largest as the default; null: quartiles and maximum, with the advised one as the default.",
        not_empty=True,
    )
    target: Literal["given", "generated"] = option(
        "given", "Target return: given by the caller, or generated by the return model at every step."
    )
    support_size: int = option(
        1024,
        "Number of training observations to store for comparison with live ones; 0: none.",
        at_least=0,
        at_most=1024,
    )
    # The exponent is that of the paper's shortest paths (Chen et al. 2021, appendix). The floor is ours: a large
    # exponent would otherwise select returns that the model considers almost impossible.
    prior_exponent: float = option(
        10.0, "With generated targets: exponent by which likely returns are weighted towards high ones.", at_least=0
    )
    prior_floor: float = option(
        0.001, "With generated targets: returns less likely than this are never selected.", at_least=0, below=1
    )
