"""Everything a training run needs to know, as plain values: the command line and config.json are made from it.

Nothing here imports torch, so that `rlt --help` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    """Weight of the alignment loss, which draws tokens towards word vectors; 0.1 in the paper, 0: none."""
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
class RunConfig:
    """Everything that determines a run."""

    output: str = ""
    """The run folder."""
    dataset: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    returns: ReturnConfig = field(default_factory=ReturnConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = asdict(self)
        values["training"]["betas"] = list(self.training.betas)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: object = "config.json") -> RunConfig:
        """Read what `to_dict` returned; unknown fields are refused by name."""
        config = cls()
        for name, value in values.items():
            _set(config, name, value, where)
        if isinstance(config.training.betas, list):  # as JSON and YAML have it
            config.training.betas = tuple(config.training.betas)  # pyright: ignore[reportAttributeAccessIssue]  checked later
        return config

    @property
    def window_length(self) -> int:
        """Timesteps of a training window."""
        longer = _STREAMING_WINDOWS if self.model.attention == "streaming" else 1
        return self.windows.window_length or longer * self.windows.context_length

    @property
    def needs_return_model(self) -> bool:
        """Whether a model of returns is trained beside the policy."""
        return self.returns.predict or self.returns.label == "expected" or self.policy.target == "generated"

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

    def check(self) -> None:
        """Refuse values that contradict each other or cannot work, naming the option."""
        self.check_types()
        for option, problem, fix in _contradictions(self):
            raise RLTransformerError(problem, where=option, fix=fix)


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

_POSITIVE = (
    "training.train_steps", "training.batch_size", "training.learning_rate", "training.checkpoint_every",
    "training.keep_checkpoints", "training.threads", "training.max_gradient_norm", "training.lora_rank",
    "windows.context_length", "windows.window_length", "returns.scale", "returns.reward_clip", "model.frame_stack", "model.hidden_size",
    "model.n_layer", "model.n_head", "model.n_inner", "model.max_ep_len", "dataset.max_trajectories",
    "evaluation.num_episodes", "evaluation.every", "training.trunk_learning_rate", "language.alignment_centroids",
    "language.alignment_steps", "language.text_batch_size", "language.text_length",
)  # fmt: skip
_NOT_NEGATIVE = (
    "training.warmup_steps", "training.weight_decay", "training.seed", "training.entropy_weight", "evaluation.seed",
    "model.timestep_initializer_range", "policy.prior_exponent", "language.alignment_weight", "language.text_weight",
    "training.trunk_weight_decay",
)  # fmt: skip
_NOT_EMPTY = ("evaluation.env_id", "policy.suggested_targets", "model.trunk", "language.text")


def _contradictions(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    if not c.dataset.uri:
        yield "dataset.uri", "no data is named", "pass --data URI, for example --data minari:mujoco/hopper/medium-v0"
    if not c.output:
        yield "output", "no run folder is named", "pass --output DIR"
    yield from _out_of_range(c)
    yield from _impossible_together(c)
    yield from _without_effect(c)


def _get(c: RunConfig, option: str) -> Any:
    section, _, name = option.partition(".")
    return getattr(getattr(c, section), name)


def _out_of_range(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    t = c.training
    for option in _POSITIVE:
        if _get(c, option) is not None and not _get(c, option) > 0:
            yield option, f"{_get(c, option)} is not positive", "give a value above 0"
    for option in _NOT_NEGATIVE:
        if _get(c, option) is not None and _get(c, option) < 0:
            yield option, f"{_get(c, option)} is not 0 or more", "give 0 or more"
    for option in _NOT_EMPTY:
        if _get(c, option) in ("", []):
            yield option, "is empty", "name one, or leave it out"
    for option in ("training.seed", "evaluation.seed"):
        if _get(c, option) >= 2**63:
            yield option, f"{_get(c, option)} is too large", "give a seed below 2**63"
    share = c.dataset.top_fraction
    if not 0 < share <= 1:
        yield "dataset.top_fraction", f"{share} is not in (0, 1]", "give a share of the timesteps, for example 0.1"
    if not all(0 <= beta < 1 for beta in t.betas):
        yield "training.betas", f"{t.betas} are not both in [0, 1)", "give for example [0.9, 0.999]"
    for option, example in {"training.average_decay": 0.999, "policy.prior_floor": 0.001}.items():
        if not 0 <= _get(c, option) < 1:
            yield option, f"{_get(c, option)} is not in [0, 1)", f"give 0 for none, or for example {example}"
    if c.returns.bins < 2:
        yield "returns.bins", f"{c.returns.bins} is fewer than 2", "give 2 or more"
    if c.model.conditions not in ([], ["return_to_go"]):
        yield "model.conditions", f"{c.model.conditions} is not supported", "use [return_to_go] or []"


def _impossible_together(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    t, m, targets = c.training, c.model, c.evaluation.target_returns
    conditioned = bool(m.conditions) and m.arch == "decision_transformer"
    if t.entropy_weight and m.action_head != "gaussian":
        problem = f"the {m.action_head} head has no entropy to weigh"
        yield "training.entropy_weight", problem, "set model.action_head to gaussian, or leave it 0"
    if m.action_head == "gaussian" and not m.action_tanh:
        yield "model.action_tanh", "the gaussian head is always squashed", "leave it true"
    if targets and not c.evaluation.env_id:
        yield "evaluation.target_returns", "targets without an environment", "set evaluation.env_id too"
    if targets and not conditioned:
        yield "evaluation.target_returns", "this policy is not asked for a return", "leave the targets out"
    if c.policy.target == "generated" and (targets or c.policy.suggested_targets):
        option = "evaluation.target_returns" if targets else "policy.suggested_targets"
        yield option, "the policy names its returns itself", "leave them out, or set policy.target to asked"
    for option, default in {"returns.label": "realized", "policy.target": "asked"}.items():
        if not conditioned and _get(c, option) != default:
            yield option, "this policy is not conditioned on a return", f"leave it {default}"
    for option, default in {
        "returns.predict": False,
        "training.trunk": "full",
        "model.embedding": "linear",
        "model.attention": "window",
        "model.trunk": None,
        "training.trunk_learning_rate": None,
        "training.trunk_weight_decay": None,
        "model.time": "before_norm",
        "model.tie_action_head": False,
    }.items():
        if m.arch == "behavior_cloning" and _get(c, option) != default:
            yield option, "the MLP of behavior_cloning has no such part", f"leave it {default}"
    if m.attention == "streaming" and (m.trunk or m.positions != "off"):
        yield "model.attention", "a pretrained trunk reads whole windows", "use window"
    if m.tie_action_head and (m.action_head == "gaussian" or m.embedding != "linear"):
        problem = "only a linear embedding can read actions out, one number a dimension"
        yield "model.tie_action_head", problem, "leave it false, or use model.embedding linear and another head"
    language = c.language.text_weight or c.language.alignment_weight
    if language and (t.entropy_weight or c.needs_return_model):
        option = "training.entropy_weight" if t.entropy_weight else "returns"
        yield option, "is not combined with the losses of language", "leave it at its default, or language.* out"
    if bool(c.language.text) != bool(c.language.text_weight):
        yield "language.text", "a text needs a weight, and a weight a text", "set language.text and language.text_weight"
    if m.attention == "streaming" and c.needs_return_model:
        problem = "a model of returns reads whole windows, and streaming keeps none"
        yield "model.attention", problem, "use window"
    if m.attention == "window" and c.window_length != c.windows.context_length:
        problem = f"windows of {c.window_length} timesteps would train on more than the {c.windows.context_length} seen while acting"
        yield "windows.window_length", problem, "leave it out, or set model.attention to streaming"
    if c.window_length < c.windows.context_length:
        problem = f"windows of {c.window_length} timesteps never fill a context of {c.windows.context_length}"
        yield "windows.window_length", problem, "give context_length or more"
    if c.policy.action_selection == "sample" and m.action_head == "continuous":
        problem = "the continuous head has no distribution to sample from"
        yield "policy.action_selection", problem, "use greedy, or model.action_head gaussian"


def _without_effect(c: RunConfig) -> Iterator[tuple[str, str, str]]:
    """Options of something that is switched off: what the user set would be ignored."""
    switched_off = {
        "training.lora_rank": c.training.trunk != "lora" and "training.trunk is not lora",
        "returns.bins": not c.needs_return_model and "there is no model of returns",
        "policy.prior_exponent": c.policy.target == "asked" and "policy.target is asked",
        **{f"model.{name}": not c.model.trunk and "model.trunk is not given" for name in ("trunk_weights", "positions")},
        **{
            f"language.alignment_{name}": not c.language.alignment_weight and "language.alignment_weight is 0"
            for name in ("centroids", "steps")
        },
        **{f"language.{name}": not c.language.text and "there is no language.text" for name in ("text_batch_size", "text_length")},
        **{f"language.{name}": not c.model.trunk and "model.trunk is not given" for name in ("alignment_weight", "text_weight")},
        **{
            f"training.trunk_{name}": c.training.trunk == "frozen" and "training.trunk is frozen"
            for name in ("learning_rate", "weight_decay")
        },
        "policy.prior_floor": c.policy.target == "asked" and "policy.target is asked",
    }
    for option, why in switched_off.items():
        if why and _get(c, option) != _get(RunConfig(), option):
            yield option, f"has no effect: {why}", "leave it out, or switch on what it belongs to"
