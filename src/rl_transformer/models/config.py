"""The configuration of a model: everything needed to rebuild it, and nothing about data or training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from rl_transformer.config.base import Section, fits_type, type_hints, type_text
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "tanh")
CONDITION_ENTRIES = ("token", "added")
EMBEDDINGS = ("linear", "mlp")
STREAM_ENTRIES = ("sum", "tokens")
RETURN_TO_GO = "return_to_go"
TIMESTEP_EMBEDDINGS = ("before_norm", "after_norm", "window")

_HF_MODEL_TYPE = "decision_transformer"
_SIZES = ("state_dim", "act_dim", "hidden_size", "max_ep_len", "vocab_size", "n_positions", "n_layer", "n_head")


@dataclass(kw_only=True)
class DecisionTransformerConfig(Section):
    """The sizes and options of a Decision Transformer.

    The first group has the names and defaults of `transformers.DecisionTransformerConfig`, whose `config.json` holds
    exactly these. The second group is our own. A model with other values than the defaults there cannot be written in
    transformers' layout, because it would load and compute other actions (see `extensions_in_use`).
    """

    state_dim: int = 17
    """Length of one observation vector."""
    act_dim: int = 4
    """Length of one action vector; the number of actions with a discrete head."""
    hidden_size: int = 128
    """Width of a token."""
    max_ep_len: int = 4096
    """Rows of the timestep table: the number of timesteps that the model can tell apart."""
    action_tanh: bool = True
    """Squash continuous actions into [-1, 1]."""
    vocab_size: int = 1
    """Rows of the token table of a bare `DecisionTransformerGPT2Model`."""
    n_positions: int = 1024
    """Rows of the position table of a bare `DecisionTransformerGPT2Model`."""
    n_layer: int = 3
    """Number of transformer blocks."""
    n_head: int = 1
    """Attention heads; must divide hidden_size."""
    n_inner: int | None = None
    """Width inside a block's MLP; None means 4 * hidden_size."""
    activation_function: str = "relu"
    """Activation of the MLP: relu, gelu, gelu_new, silu or tanh."""
    resid_pdrop: float = 0.1
    """Dropout on the residual branches."""
    embd_pdrop: float = 0.1
    """Dropout on the token embeddings."""
    attn_pdrop: float = 0.1
    """Dropout on the attention weights."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in the blocks' layer norms."""
    initializer_range: float = 0.02
    """Standard deviation of the trunk's initial weights."""
    scale_attn_weights: bool = True
    """Divide attention scores by the square root of a head's width."""
    use_cache: bool = True
    """Has no effect, neither here nor in transformers, whose file has the field."""
    bos_token_id: int | None = 50256
    """Has no effect; transformers' file has the field."""
    eos_token_id: int | None = 50256
    """Has no effect; transformers' file has the field."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide the scores of layer i by i + 1 as well."""
    reorder_and_upcast_attn: bool = False
    """Compute attention scores in float32 under mixed precision."""
    add_cross_attention: bool = False
    """Must be False, because there is no second sequence to attend to."""

    conditions: tuple[str, ...] = (RETURN_TO_GO,)
    """What the policy is conditioned on at each timestep; empty for behavior cloning."""
    condition_entry: str = "token"
    """token: each condition has its own token, as published; added: it is added to the observation's token."""
    action_head: str = "continuous"
    """Name of a registered action head: continuous, discrete, multi_discrete or gaussian."""
    image_shape: tuple[int, ...] | None = None
    """(channels, height, width) of uint8 images, where stacked frames count as channels; None for vectors."""
    streams: tuple[tuple[int, ...], ...] = ()
    """Shapes of the parts of an observation that has pictures beside other parts: (channels, height, width) for each picture,
    and (V,) for all numbers together, the last one. Observations are rows of bytes then, see `mixed_rows`."""
    embedding: str = "linear"
    """Embedding and readout of vectors: linear, as published, or mlp, as in LaMo."""
    stream_entry: str = "sum"
    """With ``streams``: sum adds the parts' tokens to one, tokens gives each part its own."""
    attention_span: int | None = None
    """Sliding-window attention: the number of timesteps that a token sees in every layer; None: the full window."""
    constant_position: bool = False
    """Add one learned vector to every token, as transformers' port does with the first row of its position table."""
    timestep_initializer_range: float = 1.0
    """Standard deviation of the initial timestep table; 1 as published."""
    trunk: JsonObject | None = None
    """Configuration of the Hugging Face transformer that is the trunk; None: ``blocks``, with the sizes above."""
    token_positions: bool = False
    """Add the trunk's own position table, indexed by the number of real tokens before a token; False: add nothing."""
    tie_action_head: bool = False
    """Use the action embedding's weight, without a bias, as the action head's (Reid et al. 2022)."""
    timestep_embedding: str = "before_norm"
    """Add the timestep embedding before_norm, as published, or after_norm (Reid et al.'s code); window: as published for
    Atari, see `embeddings.WindowPositions`."""
    window_length: int | None = None
    """With ``timestep_embedding`` window: the most timesteps of a window."""
    condition_widths: tuple[int, ...] | None = None
    """Numbers per timestep of each condition; None: one for each."""
    action_parts: tuple[int, ...] = ()
    """The number of values of each part of a multi-discrete action."""
    state_encoder: str = "auto"
    """Name of a registered state encoder; auto: vector or nature_cnn, whichever fits the observations."""
    blocks: str = "gpt2"
    """Name of the registered trunk that is used if ``trunk`` is None."""

    def __post_init__(self) -> None:
        # JSON has lists only. As tuples the values compare equal wherever they were read from.
        self.conditions = tuple(self.conditions)
        self.image_shape = None if self.image_shape is None else tuple(self.image_shape)
        self.streams = tuple(tuple(shape) for shape in self.streams)
        self.condition_widths = None if self.condition_widths is None else tuple(self.condition_widths)
        self.action_parts = tuple(self.action_parts)
        for problem, fix in self._contradictions():
            raise RLTransformerError(problem, where="DecisionTransformerConfig", fix=fix)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield each problem of these values together with its fix."""
        for name in _SIZES:
            if getattr(self, name) < 1:
                yield f"{name}={getattr(self, name)} is not positive", f"give {name} a value of 1 or more"
        if self.hidden_size % self.n_head:
            yield (
                f"hidden_size={self.hidden_size} is not a multiple of n_head={self.n_head}",
                f"choose a multiple, for example hidden_size={self.n_head * max(1, self.hidden_size // self.n_head)}",
            )
        for name, allowed in (
            ("activation_function", ACTIVATIONS),
            ("condition_entry", CONDITION_ENTRIES),
            ("embedding", EMBEDDINGS),
            ("stream_entry", STREAM_ENTRIES),
            ("timestep_embedding", TIMESTEP_EMBEDDINGS),
        ):
            if getattr(self, name) not in allowed:
                yield f"{name}={getattr(self, name)!r} is unknown", f"choose one of {', '.join(allowed)}"
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                yield f"{name}={getattr(self, name)} is not in [0, 1)", "choose a probability below 1"
        for name in ("initializer_range", "timestep_initializer_range", "layer_norm_epsilon"):
            if getattr(self, name) < 0:
                yield f"{name}={getattr(self, name)} is negative", "choose 0 or more"
        if self.add_cross_attention:
            yield "add_cross_attention is set, and there is no second sequence", "leave it False"
        for name in ("n_inner", "attention_span"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name}={value} is not positive", "give 1 or more, or None"
        if self.trunk is not None and not isinstance(self.trunk, dict):
            yield f"trunk is a {type(self.trunk).__name__}", "give a transformer's configuration as a mapping, or None"
        # In a sliding window the number of earlier tokens grows without end, so that a position table would run out.
        if self.attention_span is not None and (self.trunk is not None or self.token_positions):
            yield "sliding-window attention needs our own blocks without token positions", "leave attention_span None"
        if (self.timestep_embedding == "window") != (self.window_length is not None):
            yield "timestep_embedding window and window_length belong together", "give both, or neither"
        if self.window_length is not None and (self.window_length < 1 or self.attention_span is not None):
            yield f"window_length={self.window_length} needs full attention and a positive length", "give 1 or more"
        # A tied head has exactly the outputs that its embedding has inputs; a Gaussian needs two per dimension.
        if self.tie_action_head and (self.action_head == "gaussian" or self.embedding != "linear"):
            yield "tie_action_head needs a linear embedding and one output per action dimension", "leave it False"
        if self.window_length is not None and self.tokens_per_observation > 1:
            yield "timestep_embedding window has one token per observation", "leave stream_entry sum"
        is_picture = [len(shape) == 3 for shape in self.streams]
        has_numbers_last = [len(shape) for shape in self.streams[-1:]] == [1]
        if self.streams and (self.image_shape is not None or not all(is_picture[: -1 if has_numbers_last else None])):
            yield f"streams {list(self.streams)} are not pictures and then numbers", "give (c, h, w) each, then (V,)"
        if len(set(self.conditions)) < len(self.conditions):
            yield f"conditions {list(self.conditions)} repeat a name", "name each condition once"
        widths = self.condition_widths
        if widths is not None and (len(widths) != len(self.conditions) or min(widths, default=1) < 1):
            yield f"condition_widths {list(widths)} for {list(self.conditions)}", "give one positive width each"

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the numbers per timestep of each condition."""
        return (1,) * len(self.conditions) if self.condition_widths is None else self.condition_widths

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Return the shape of one observation as the model reads it."""
        if self.streams:
            # Pictures are bytes, and numbers have four of them.
            return (sum(math.prod(shape) if len(shape) == 3 else 4 * shape[0] for shape in self.streams),)
        return (self.state_dim,) if self.image_shape is None else self.image_shape

    @property
    def reads_bytes(self) -> bool:
        """Return True if observations are uint8: images, or rows of pictures and numbers."""
        return self.image_shape is not None or bool(self.streams)

    @property
    def inner_size(self) -> int:
        """Return the width inside a block's MLP."""
        return 4 * self.hidden_size if self.n_inner is None else self.n_inner

    @property
    def tokens_per_timestep(self) -> int:
        """Return the number of condition tokens, plus those of the observation and the action token."""
        return self.observation_token + 2

    @property
    def tokens_per_observation(self) -> int:
        """Return the number of tokens of an observation: one, or one for each of its parts."""
        return len(self.streams) if self.streams and self.stream_entry == "tokens" else 1

    @property
    def observation_token(self) -> int:
        """Return the index of the observation's token, or of its last one, among those of its timestep."""
        conditions = len(self.conditions) if self.condition_entry == "token" else 0
        return conditions + self.tokens_per_observation - 1

    @property
    def extensions_in_use(self) -> list[str]:
        """Return the names of options in use that transformers' model lacks and that change the actions."""
        defaults = DecisionTransformerConfig()
        # The position vector has a place in transformers' files, and initial weights are no part of a file at all.
        representable = {*hf_field_names(), "constant_position", "timestep_initializer_range"}
        names = [f.name for f in fields(self) if f.name not in representable]
        return [name for name in names if getattr(self, name) != getattr(defaults, name)]

    def to_dict(self) -> JsonObject:
        """Return every field as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "config.json") -> DecisionTransformerConfig:
        """Build a configuration from a mapping; an unknown field is refused, because the model may depend on it."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise RLTransformerError(
                f"unknown model fields: {', '.join(unknown)}",
                where=where,
                fix="remove them, or load the folder with the version of rl_transformer that wrote it",
            )
        _refuse_wrong_types(values, where)
        return cls(**values)

    def to_hf_dict(self) -> JsonObject:
        """Return what transformers would write into config.json."""
        values = {name: getattr(self, name) for name in hf_field_names()}
        return {
            "architectures": ["DecisionTransformerModel"],
            "model_type": _HF_MODEL_TYPE,
            "dtype": "float32",
            **values,
        }

    @classmethod
    def from_hf_dict(cls, values: JsonMapping, *, where: object = "config.json") -> DecisionTransformerConfig:
        """Build a configuration from transformers' config.json; general fields without effect on the model are dropped."""
        model_type = values.get("model_type")
        if model_type != _HF_MODEL_TYPE:
            raise RLTransformerError(
                f"model_type is {model_type!r}, not {_HF_MODEL_TYPE!r}",
                where=where,
                fix="name a folder written by save_pretrained of a Decision Transformer",
            )
        known = {name: values[name] for name in hf_field_names() if name in values}
        _refuse_wrong_types(known, where)
        return cls(**known)


def _refuse_wrong_types(values: JsonMapping, where: object) -> None:
    """Raise an `RLTransformerError` for a value of a file that is not of its field's type."""
    # Some values are first used when the model is built, far from the file that they come from.
    hints = type_hints(DecisionTransformerConfig)
    for name, value in values.items():
        if name != "trunk" and not fits_type(_as_tuples(value), hints[name]):
            problem = f"{name} is {value!r:.100}, not {type_text(hints[name])}"
            raise RLTransformerError(problem, where=where, fix="restore the file from a copy")


def _as_tuples(value: object) -> object:
    """Return lists of JSON as the tuples that the fields hold."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def hf_field_names() -> list[str]:
    """Return the names of the fields that transformers' configuration has too, in order."""
    # They are the first group of the class, which ends where `conditions` begins.
    names = [f.name for f in fields(DecisionTransformerConfig)]
    return names[: names.index("conditions")]
