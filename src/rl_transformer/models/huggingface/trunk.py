"""Use any causal Hugging Face transformer as the trunk, through the argument `inputs_embeds` that they share.

Shapes: B windows, L tokens, Q query tokens, E width of a token.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.models.config import DecisionTransformerConfig
from rl_transformer.models.huggingface.position_tables import (
    first_position,
    make_switchable,
    position_table_name,
    set_active,
)
from rl_transformer.models.huggingface.probe import MAX_TOKENS, probe
from rl_transformer.models.huggingface.source import from_plain, hf_model_fields, model_class, width_of
from rl_transformer.models.trunk.dropout import seed_foreign_dropout
from rl_transformer.models.trunk.interface import TrunkOutput
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.masks import causal_mask
from rl_transformer.runtime.shapes import Bool, Float
from rl_transformer.runtime.types import JsonObject

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_TOWERS = ("text_model", "language_model")  # the text part of multimodal models
_LAST_NORMS = ("final_layer_norm", "post_layernorm", "layernorm")


class HFTrunk(nn.Module):
    """A transformer behind the `Trunk` interface, which is tried out when it is built (see `probe`).

    Args:
        config: The transformer's configuration as plain values, see `plain_config`.
        module: The transformer itself, whose causal part is copied; None builds one with random weights.
        token_positions: Add the transformer's own position table, indexed by the number of real tokens before a
            token. Relative positions (rotary, T5's, ALiBi) always count real tokens.

    Raises:
        RLTransformerError: The architecture cannot be causal, or takes no embedded tokens.
    """

    supports_kv_cache = False

    def __init__(self, config: JsonObject, module: nn.Module | None = None, *, token_positions: bool) -> None:
        super().__init__()
        if module is None:
            module = build_transformer(config)
        self.kind = type(module).__name__
        self.stack = cast("PreTrainedModel", copy.deepcopy(causal_part(module)).float())
        if hasattr(self.stack, "pooler"):
            setattr(self.stack, "pooler", None)  # noqa: B010  the pooled first token is never used
        # (its encoder, the layer norm behind it) if only an inner module takes embedded tokens.
        self._encoder = None if "inputs_embeds" in _arguments(self.stack) else self._inner_encoder()
        self._table_name = position_table_name(self.stack)
        self._first = 0 if self._table is None else first_position(self.stack, self._table)
        make_switchable(self.stack)
        self._token_positions = token_positions
        if token_positions and self._table is None:
            raise self.error("has no position table to add", "set model.positions to off")
        self.width = width_of(cast("PretrainedConfig", module.config))
        rows = MAX_TOKENS if self._table is None else self._table.num_embeddings - self._first
        probe(self, min(MAX_TOKENS, rows))

    @property
    def _table(self) -> nn.Embedding | None:
        # Only the name is stored: a module as an attribute would appear a second time among the parameters.
        if self._table_name is None:
            return None
        return cast(nn.Embedding, self.stack.get_submodule(self._table_name))

    def run(
        self,
        tokens: Float[Tensor, "B L E"],
        valid: Bool[Tensor, "B L"] | None,
        *,
        keep_hidden: bool = False,
        keep_weights: bool = False,
    ) -> TrunkOutput:
        """Run every token; ``valid`` is True at real tokens, and padding may be on either side of them."""
        # Real tokens are moved to the front, in order, and back afterwards: behind them, causality alone keeps padding
        # out of sight in every architecture, also in those without a mask.
        order = None if valid is None else torch.argsort(~valid, dim=1, stable=True)
        if order is not None:
            tokens = tokens.take_along_dim(order[:, :, None], dim=1)
        with self._eager_attention() if keep_weights else nullcontext():
            output = self._call(tokens, output_hidden_states=keep_hidden, output_attentions=keep_weights)
        last = output["last_hidden_state"]
        hidden_states = list(output.get("hidden_states") or () if keep_hidden else ())
        weights = list(output.get("attentions") or () if keep_weights else ())
        # An architecture may ignore a flag and return nothing, instead of refusing it.
        if keep_hidden and not hidden_states:
            raise self.error("does not return its hidden states", "leave output_hidden_states False")
        if keep_weights and not weights:
            raise self.error("does not return attention weights", "choose a transformer with attention")
        if order is not None:
            back = torch.argsort(order, dim=1)
            last = last.take_along_dim(back[:, :, None], dim=1)
            hidden_states = [hidden.take_along_dim(back[:, :, None], dim=1) for hidden in hidden_states]
            # Attention weights have two axes of tokens: the queries, and the tokens that they see.
            rows = back[:, None, :, None]
            columns = back[:, None, None, :]
            weights = [w.take_along_dim(rows, 2).take_along_dim(columns, 3) for w in weights]
        return TrunkOutput(
            last_hidden_state=last,
            hidden_states=tuple(hidden_states) if keep_hidden else None,
            attentions=tuple(weights) if keep_weights else None,
        )

    def hidden_at(self, tokens: Float[Tensor, "B L E"], positions: slice) -> Float[Tensor, "B Q E"]:
        """Return the last hidden state at ``positions`` only."""
        return self._call(tokens)["last_hidden_state"][:, positions]

    def decode_step(self, tokens: Float[Tensor, "B Q E"], cache: KVCache) -> Float[Tensor, "B Q E"]:
        """Raise an error: sliding-window attention works with our own blocks only."""
        raise self.error("has no sliding-window attention", "use model.attention full")

    @contextmanager
    def as_language_model(self) -> Iterator[None]:
        """Add the position table inside the block, as the transformer was pretrained with it."""
        before = self._token_positions
        self._token_positions = True
        try:
            yield
        finally:
            self._token_positions = before

    def error(
        self, problem: str, fix: str = "choose a causal transformer, such as GPT-2, T5 or Llama"
    ) -> RLTransformerError:
        """Return an error that names this transformer."""
        return RLTransformerError(f"{self.kind} {problem}"[:600], where="model.trunk", fix=fix)

    def _call(self, tokens: Float[Tensor, "B L E"], **flags: bool) -> JsonObject:
        """Return the outputs of the transformer by name."""
        # Some architectures lack some flags, so only those that are set are passed.
        given = {name: value for name, value in flags.items() if value}
        table = self._table
        if table is not None:
            set_active(table, self._token_positions)
            # A plain table that is switched off accepts any index (see position_tables). The others compute the row
            # themselves, and would fail beyond the last one.
            if self._token_positions or self._first or type(table) is not nn.Embedding:
                self._check_length(tokens.shape[1], table.num_embeddings - self._first)
        with seed_foreign_dropout(tokens.device) if self.training else nullcontext():
            if self._encoder is not None:
                return self._call_encoder(tokens, given)
            return self.stack(inputs_embeds=tokens, use_cache=False, return_dict=True, **given)

    def _check_length(self, length: int, rows: int) -> None:
        if length > rows:
            raise RLTransformerError(
                f"{length} tokens are more than the {rows} positions of {self.kind}",
                where="model.positions",
                fix="shorten windows.context_length" + (", or set it to off" if self._token_positions else ""),
            )

    def _call_encoder(self, tokens: Float[Tensor, "B L E"], given: JsonObject) -> JsonObject:
        """Run blocks that are bidirectional without a mask, such as CLIP's towers, under a causal mask."""
        assert self._encoder is not None
        encoder_name, norm_name = self._encoder
        # The module around the blocks takes no embedded tokens, so its part is done here: positions before the blocks,
        # a layer norm after them.
        table = self._table
        if table is not None and self._token_positions:
            tokens = tokens + table(torch.arange(tokens.shape[1], device=tokens.device))
        mask = causal_mask(tokens.shape[1], None, 1, tokens.device).to(tokens.dtype)
        encoder = self.stack.get_submodule(encoder_name)
        output = encoder(inputs_embeds=tokens, attention_mask=mask.expand(len(tokens), -1, -1, -1), **given)
        last = output["last_hidden_state"]
        if norm_name is not None:
            last = self.stack.get_submodule(norm_name)(last)
        return {**output, "last_hidden_state": last}

    def _inner_encoder(self) -> tuple[str, str | None]:
        """Return the names of the inner encoder and of the layer norm after it."""
        encoder = getattr(self.stack, "encoder", None)
        if encoder is None or not {"inputs_embeds", "attention_mask"} <= set(_arguments(encoder)):
            raise self.error("takes no embedded tokens under a mask, so it cannot be causal")
        norms = [name for name in _LAST_NORMS if isinstance(getattr(self.stack, name, None), nn.LayerNorm)]
        return "encoder", norms[0] if norms else None

    @contextmanager
    def _eager_attention(self) -> Iterator[None]:
        """Compute attention with the implementation that returns its weights; results agree up to rounding."""
        before = self.stack.config._attn_implementation
        self.stack.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.stack.set_attn_implementation(str(before))


def policy_trunk(config: DecisionTransformerConfig) -> HFTrunk:
    """Return the trunk that ``config.trunk`` describes, with random weights."""
    assert config.trunk is not None
    return HFTrunk(config.trunk, token_positions=config.token_positions)


def build_transformer(config: JsonObject) -> nn.Module:
    """Return a transformer with random weights from plain values."""
    require("transformers", extra="lm", purpose="a policy with a Hugging Face trunk")
    try:
        built = from_plain(config)
        return model_class(built, head=False, where="model.trunk")(built).float()
    except RLTransformerError:
        raise
    except Exception as error:  # the values may come from a damaged file and fail in any way
        raise RLTransformerError(
            f"cannot be built: {' '.join(str(error).split())[:300]}",
            where="model.trunk",
            fix="restore the policy from a copy, or pass a valid configuration",
        ) from None


def causal_part(module: nn.Module) -> nn.Module:
    """Return the stack of blocks that can be causal: the decoder of an encoder-decoder, or the text tower of a pair."""
    if not hasattr(module, "config") or not hasattr(module.config, "to_dict"):
        raise RLTransformerError(
            f"{type(module).__name__} is not a Hugging Face transformer",
            where="transformer",
            fix="pass a model of the transformers library",
        )
    model = cast("PreTrainedModel", module)
    if model.config.is_encoder_decoder:
        return model.get_decoder()
    base = cast(nn.Module, getattr(model, "base_model", model))
    if type(base).__name__.endswith("DecoderWrapper"):  # causal language models of BART's family
        return base.get_submodule("decoder")
    for name in _TOWERS:
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    return base


def copy_weights(trunk: HFTrunk, module: nn.Module) -> None:
    """Copy the causal part of ``module`` into a trunk of the same architecture.

    Raises:
        RLTransformerError: A weight that was missing in the file ``module`` was loaded from.
    """
    # The file names the weights of the whole module, and the trunk those of its causal part.
    names = {id(p): name for name, p in module.named_parameters(remove_duplicate=False)}
    source = dict(causal_part(module).named_parameters())
    absent = getattr(module, "absent_weights", set())
    with torch.no_grad():
        for name, parameter in trunk.stack.named_parameters():
            if parameter.numel() == 0:  # dropped by the probe
                continue
            if names[id(source[name])] in absent:
                raise RLTransformerError(
                    f"the file lacks {names[id(source[name])]}",
                    where="model.trunk",
                    fix="name a folder with all weights",
                )
            parameter.copy_(source[name])
    # Buffers are not trained by gradients, but a file may hold other values than a new model has.
    for name, buffer in causal_part(module).named_buffers():
        trunk.stack.get_buffer(name).copy_(buffer)


def fields_of(module: nn.Module) -> JsonObject:
    """Return the fields of a `DecisionTransformerConfig` that a transformer passed as a module determines."""
    causal_part(module)  # raises an error for anything that is no transformer
    return hf_model_fields(copy.deepcopy(cast("PretrainedConfig", module.config)))


def _arguments(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)
