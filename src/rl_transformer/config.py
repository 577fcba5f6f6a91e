"""Everything a training run needs to know, as plain values: the command line and config.json are made from it.

Nothing here imports torch, so that `rlt --help` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from rl_transformer.config_checks import contradictions
from rl_transformer.errors import RLTransformerError


@dataclass(kw_only=True)
class DataConfig:
    """Which logged data to learn from."""

    uri: str = ""
    """minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or rlt:FOLDER."""
    keep_unfinished: bool = False
    """Keep a D4RL file's last episode that has no end."""
    top_fraction: float = 1.0
    """Learn only from the best episodes that hold this share of all timesteps (%BC)."""
    min_return: float | None = None
    """Learn only from episodes with at least this return."""
    max_trajectories: int | None = None
    """Learn only from the first so many episodes."""
    validation_fraction: float = 0.0
    """Share of episodes held out to measure the action error."""


@dataclass(kw_only=True)
class ModelConfig:
    """Which network. Sizes that follow from the data are not asked for."""

    arch: Literal["decision_transformer", "behavior_cloning"] = "decision_transformer"
    """decision_transformer, or behavior_cloning: an MLP on the last context_length observations."""
    conditions: list[str] = field(default_factory=lambda: ["return_to_go"])
    """What is asked of the policy; an empty list makes the transformer a behavior cloner."""
    condition_entry: Literal["token", "added"] = "token"
    """A token of its own, as published, or added to the observation's token."""
    action_head: Literal["auto", "continuous", "discrete", "gaussian"] = "auto"
    """auto: discrete for discrete actions, else continuous."""
    action_tanh: bool = True
    """Squash continuous actions into the bounds of the action space."""
    hidden_size: int = 128
    """Width of a token."""
    n_layer: int = 3
    """Blocks of the transformer, or hidden layers of the MLP."""
    n_head: int = 1
    """Attention heads."""
    n_inner: int | None = None
    """Width inside a block's MLP; 4 * hidden_size if not given."""
    activation_function: Literal["relu", "gelu", "gelu_new", "silu", "tanh"] = "relu"
    """Non-linearity inside a block's MLP."""
    resid_pdrop: float = 0.1
    """Dropout on what a block adds."""
    embd_pdrop: float = 0.1
    """Dropout on the embedded tokens."""
    attn_pdrop: float = 0.1
    """Dropout on the attention weights."""
    max_ep_len: int | None = None
    """Rows of the timestep table; the longest episode of the data if not given. Later steps are held at the last row."""
    timestep_initializer_range: float = 1.0
    """Standard deviation of the initial timestep table."""
    frame_stack: int = 1
    """Images that make one state, the newest last."""
    attention: Literal["window", "streaming"] = "window"
    """What a token sees: the window up to itself, as published; or, in every layer, the last context_length timesteps
    (streaming: an action then costs one timestep's tokens instead of a window's)."""
    embedding: Literal["linear", "mlp"] = "linear"
    """What embeds vectors and reads actions out: one linear layer, as published, or an MLP of two (LaMo)."""
    trunk: str | None = None
    """A Hugging Face transformer whose blocks, and sizes, to start from: a Hub id (gpt2, ID@REVISION), a folder, or a run
    of rlt pretrain; blocks of our own if not given."""
    trunk_weights: Literal["pretrained", "random", "shuffled"] = "pretrained"
    """The trunk's own weights; or controls: as its architecture begins, or its numbers shuffled within each matrix."""
    positions: Literal["off", "tokens", "timesteps"] = "off"
    """The trunk's own table of positions: adds nothing; adds to each token by its place in the window; or is where the
    timestep table starts from, repeated if episodes are longer (Reid et al.)."""
    time: Literal["before_norm", "after_norm"] = "before_norm"
    """Add the timestep before the tokens' layer norm, as published, or after it (Reid et al.'s code)."""
    tie_action_head: bool = False
    """Read actions out by the action embedding's weight (Reid et al.)."""


@dataclass(kw_only=True)
class WindowConfig:
    """Which pieces of episodes the model learns from."""

    context_length: int = 20
    """Timesteps a prediction may see; with streaming attention, in each layer."""
    window_length: int | None = None
    """Timesteps of a training window: context_length if not given, three times that with streaming attention."""
    start: Literal["any", "first"] = "any"
    """Where windows begin: at any step, as published, or with the episode."""
    return_balance: float = 0.0
    """Share of each batch drawn uniformly over bins of return instead of over timesteps."""


@dataclass(kw_only=True)
class ReturnConfig:
    """What a return is. The policy keeps this and counts in the same way."""

    scale: float | None = None
    """Divisor before the model sees it; the power of ten below the data's largest return if not given."""
    update: Literal["subtract", "keep"] = "subtract"
    """subtract each reward from what is asked for; keep: the whole return throughout (delayed reward)."""
    reward_clip: float | None = None
    """Clip rewards to [-c, c] in the data and while acting."""
    label: Literal["realized", "expected"] = "realized"
    """Label each step with the return that followed; or with the return that a model of returns expects after
    its action, so that luck is not asked for (in the spirit of ESPER)."""
    predict: bool = False
    """Train a model of returns beside the policy, and keep it there; implied by label expected and target generated."""
    bins: int = 101
    """Values among which the model of returns distributes its belief."""


@dataclass(kw_only=True)
class TrainingConfig:
    """The optimization."""

    train_steps: int = 100_000
    """Updates."""
    batch_size: int = 64
    """Windows an update, over all processes."""
    learning_rate: float = 1e-4
    """Step size after the warm-up."""
    warmup_steps: int = 10_000
    """Updates over which the step size rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine to zero at train_steps."""
    weight_decay: float = 1e-4
    """Decoupled decay."""
    decay: Literal["all", "matrices"] = "all"
    """Which parameters decay: all, as published for Gym; or weights of linear and convolution layers only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moments of AdamW."""
    max_gradient_norm: float | None = 0.25
    """Clip the global gradient norm; null: no clipping."""
    average_decay: float = 0.0
    """Decay of the running average of the weights that the policy is made of; 0: the last weights."""
    entropy_weight: float = 0.0
    """With the gaussian head: weight of the entropy bonus."""
    trunk: Literal["full", "frozen", "lora"] = "full"
    """Train the policy's blocks, or leave them as they are, or train a low-rank change of their attention."""
    lora_rank: int = 16
    """Rank of that change."""
    trunk_learning_rate: float | None = None
    """Step size of the blocks, with the same warm-up and schedule; learning_rate if not given."""
    trunk_weight_decay: float | None = None
    """Decoupled decay of the blocks; weight_decay if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of the forward pass; weights stay float32."""
    seed: int = 0
    """Seed of initialization, batches, dropout and the held-out split."""
    threads: int | None = None
    """CPU threads; torch's default if not given."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    checkpoint_every: int = 5_000
    """Updates between resumable checkpoints; one is written at the end as well."""
    keep_checkpoints: int = 2
    """Newest verified checkpoints to keep."""
    tensorboard: bool = False
    """Write TensorBoard event files too."""
    wandb: bool = False
    """Report to Weights & Biases too."""


@dataclass(kw_only=True)
class LanguageConfig:
    """With a pretrained trunk: keep it near its language (Reid et al. 2022)."""

    alignment_weight: float = 0.0
    """Weight of the alignment loss, which draws tokens towards word vectors; 0.1 in Reid et al.'s code, 0: none."""
    alignment_centroids: int = 1000
    """Centroids of the word vectors, by k-means."""
    alignment_steps: int = 5_000
    """Updates over which that weight falls to zero, by a sigmoid."""
    text: str | None = None
    """Text file, or folder of *.txt, to go on predicting words of."""
    text_weight: float = 0.0
    """Weight of the loss on words."""
    text_batch_size: int = 2
    """Pieces of text an update."""
    text_length: int = 1024
    """Words (tokens of the trunk's tokenizer) in a piece."""


@dataclass(kw_only=True)
class PolicyConfig:
    """How the finished policy acts."""

    action_selection: Literal["greedy", "sample"] = "greedy"
    """greedy, or sample from the action head's distribution."""
    suggested_targets: list[float] | None = None
    """Returns worth asking for; quartiles and maximum of the data if not given."""
    target: Literal["asked", "generated"] = "asked"
    """Who names the return: whoever asks, or the policy, from its model of returns, at every step."""
    prior_exponent: float = 10.0
    """With generated targets: how strongly likely returns are weighed towards good ones."""
    prior_floor: float = 0.001
    """With generated targets: returns that the model of returns holds less likely than this are not considered."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """Evaluation while training; none without an environment."""

    env_id: str | None = None
    """Gymnasium id."""
    target_returns: list[float] = field(default_factory=list)
    """Returns to ask for; the policy's suggestions if empty."""
    num_episodes: int = 20
    """Episodes a target."""
    every: int = 10_000
    """Updates between evaluations; one is made at the end as well."""
    seed: int = 1_000_000
    """Seed of the first episode; later ones count up."""


@dataclass(kw_only=True)
class Sections:
    """A configuration of sections, each a dataclass of plain values."""

    output: str = ""
    """The run folder."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {n: {k: _plain(x) for k, x in v.items()} if isinstance(v, dict) else v for n, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object = "config.json") -> Self:
        """Read what `to_dict` returned; unknown fields are refused by name."""
        config = cls()
        for name, value in values.items():
            _set(config, name, value, where)
        training: Any = getattr(config, "training", None)
        if training is not None and isinstance(training.betas, list):  # as JSON and YAML have it
            training.betas = tuple(training.betas)
        return config

    def check_types(self) -> None:
        """Refuse values that are not of their option's type, or not among its choices."""
        for section in (f.name for f in fields(self) if f.name != "output"):
            hints = get_type_hints(type(getattr(self, section)))
            for name, value in vars(getattr(self, section)).items():
                if not _fits(value, hints[name]):
                    wanted = str(hints[name]).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
                    raise RLTransformerError(
                        f"{value!r:.200} is not {wanted}", where=f"{section}.{name}", fix="give a value of that kind"
                    )


@dataclass(kw_only=True)
class RunConfig(Sections):
    """Everything that determines a run."""

    dataset: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    returns: ReturnConfig = field(default_factory=ReturnConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def window_length(self) -> int:
        """Timesteps of a training window."""
        longer = _STREAMING_WINDOWS if self.model.attention == "streaming" else 1
        return self.windows.window_length or longer * self.windows.context_length

    @property
    def needs_return_model(self) -> bool:
        """Whether a model of returns is trained beside the policy."""
        return self.returns.predict or self.returns.label == "expected" or self.policy.target == "generated"

    def check(self) -> None:
        """Refuse values that contradict each other or cannot work, naming the option."""
        self.check_types()
        for option, problem, fix in contradictions(self):
            raise RLTransformerError(problem, where=option, fix=fix)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type that a field of a configuration may have."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is hint


def _set(config: Any, name: str, value: Any, where: object) -> None:
    if name not in {f.name for f in fields(config)}:
        raise RLTransformerError(
            f"unknown option {name!r}", where=where, fix="remove it; rlt train PRESET --help lists the options"
        )
    section = getattr(config, name)
    if not is_dataclass(section):
        setattr(config, name, value)
        return
    if not isinstance(value, Mapping):
        raise RLTransformerError(f"{name} is not a section of options", where=where, fix="write it as a mapping")
    for inner, inner_value in value.items():
        _set(section, inner, inner_value, where)


_STREAMING_WINDOWS = 3  # times the context
