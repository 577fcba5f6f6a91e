"""Any causal transformer of Hugging Face as the trunk: one adapter over `inputs_embeds`.

What it promises is measured when the trunk is built, on a few random tokens: that no token changes
what comes before it, and which weights a token meets at all. The others (word table, cross-attention) are
emptied: they would fill files and optimizers for nothing.

Shapes: B batch, L tokens, E width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.models.dropout import foreign_dropout
from rl_transformer.models.gpt2 import TrunkOutput, causal_mask
from rl_transformer.models.hf_source import foreign_fields, from_plain, model_class, width_of

_TOWERS = ("text_model", "language_model")  # of models that join several
_POSITIONS = ("wpe", "position_embedding", "position_embeddings", "embed_positions")
_SEGMENTS = ("token_type_embeddings",)  # its first row would be a constant added to every token
_LAST_NORMS = ("final_layer_norm", "post_layernorm", "layernorm")
_PROBED = 8  # tokens


class HFTrunk(nn.Module):
    """A transformer behind the interface of our own trunk (`run`, `run_at`).

    Args:
        config: The transformer's configuration as plain values, see `plain_config`.
        module: The transformer itself, of which a copy of the causal part is taken; built with random
            weights if not given.
        token_positions: Whether its own table of positions is added, at the places of real tokens. Relative
            positions (rotary, T5's, ALiBi) always count real tokens.

    Raises:
        RLTransformerError: An architecture that cannot be causal, or takes no embedded tokens.
    """

    def __init__(self, config: dict[str, Any], module: nn.Module | None = None, *, token_positions: bool) -> None:
        super().__init__()
        if module is None:
            module = build_transformer(config)
        self.kind = type(module).__name__
        self.stack = copy.deepcopy(causal_part(module)).float()
        if hasattr(self.stack, "pooler"):
            setattr(self.stack, "pooler", None)  # noqa: B010  reads the first token, for nobody
        self._encoder = None if "inputs_embeds" in _arguments(self.stack) else self._inner_encoder()
        self._table_name = next((name for name, _ in _tables(self.stack, _POSITIONS)), None)
        self._first = 0 if self._table is None else first_position(self.stack, self._table)
        for _, table in _tables(self.stack, (*_POSITIONS, *_SEGMENTS)):
            vars(table)["silent"] = True
            if type(table) is nn.Embedding:
                table.register_forward_pre_hook(_within)
            table.register_forward_hook(_silence)
        self._token_positions = token_positions
        if token_positions and self._table is None:
            raise self._refused("has no table of positions to add", "set model.positions to off")
        self.width = width_of(module.config)
        self._probe()

    @property
    def _table(self) -> nn.Embedding | None:
        return None if self._table_name is None else self.stack.get_submodule(self._table_name)  # pyright: ignore[reportReturnType]

    def run(
        self, tokens: Tensor, valid: Tensor | None, *, keep_hidden: bool = False, keep_weights: bool = False
    ) -> TrunkOutput:
        """Run every token (B, L, E); ``valid`` (B, L) is True at real tokens, wherever they stand.

        Real tokens are moved to the front, in order, and back again: behind them, causality alone keeps
        padding out of sight of every architecture, also of those that know no mask.
        """
        order = None if valid is None else torch.argsort(~valid, dim=1, stable=True)
        if order is not None:
            tokens = tokens.take_along_dim(order[:, :, None], dim=1)
        with self._showing_attention() if keep_weights else nullcontext():
            found = self._call(tokens, output_hidden_states=keep_hidden, output_attentions=keep_weights)
        last, kept = found["last_hidden_state"], list(found.get("hidden_states") or () if keep_hidden else ())
        weights = list(found.get("attentions") or () if keep_weights else ())
        if keep_hidden and not kept:
            raise self._refused("does not show its hidden states", "ask for none")
        if keep_weights and not weights:
            raise self._refused("does not show its attention", "choose a transformer with attention, or none at all")
        if order is not None:
            back = torch.argsort(order, dim=1)
            last, *kept = [hidden.take_along_dim(back[:, :, None], dim=1) for hidden in (last, *kept)]
            rows, columns = back[:, None, :, None], back[:, None, None, :]
            weights = [w.take_along_dim(rows, 2).take_along_dim(columns, 3) for w in weights]
        return TrunkOutput(
            last_hidden_state=last,
            hidden_states=tuple(kept) if keep_hidden else None,
            attentions=tuple(weights) if keep_weights else None,
        )

    def run_at(self, tokens: Tensor, rows: slice) -> Tensor:
        """Return the last hidden state at ``rows`` only: (B, L, E) -> (B, Q, E)."""
        return self._call(tokens)["last_hidden_state"][:, rows]

    @contextmanager
    def as_language_model(self) -> Iterator[None]:
        """Add the position table inside, as the transformer was pretrained with, whatever the policy does."""
        before, self._token_positions = self._token_positions, True
        try:
            yield
        finally:
            self._token_positions = before

    def _call(self, tokens: Tensor, **more: bool) -> dict[str, Any]:
        given = {name: value for name, value in more.items() if value}
        table, adds = self._table, self._token_positions
        if table is not None:
            vars(table)["silent"] = not adds
            if adds or self._first or type(table) is not nn.Embedding:
                self._check_length(tokens.shape[1], table.num_embeddings - self._first)
        with foreign_dropout(tokens.device) if self.training else nullcontext():
            if self._encoder is not None:
                return self._through_encoder(tokens, given)
            return self.stack(inputs_embeds=tokens, use_cache=False, return_dict=True, **given)

    def _check_length(self, length: int, rows: int) -> None:
        if length > rows:
            raise RLTransformerError(
                f"{length} tokens are more than the {rows} positions of {self.kind}",
                where="model.positions",
                fix="shorten windows.context_length" + (", or set it to off" if self._token_positions else ""),
            )

    def _through_encoder(self, tokens: Tensor, given: dict[str, Any]) -> dict[str, Any]:
        """Run blocks that look both ways unless they are told not to, as CLIP's towers."""
        assert self._encoder is not None
        encoder, norm = (None if name is None else self.stack.get_submodule(name) for name in self._encoder)
        assert encoder is not None
        table = self._table
        if table is not None and self._token_positions:
            tokens = tokens + table(torch.arange(tokens.shape[1], device=tokens.device))
        mask = causal_mask(tokens.shape[1], None, 1, tokens.device).to(tokens.dtype)
        found = encoder(inputs_embeds=tokens, attention_mask=mask.expand(len(tokens), -1, -1, -1), **given)
        last = found["last_hidden_state"]
        return {**found, "last_hidden_state": last if norm is None else norm(last)}

    def _inner_encoder(self) -> tuple[str, str | None]:
        encoder = getattr(self.stack, "encoder", None)
        if encoder is None or not {"inputs_embeds", "attention_mask"} <= set(_arguments(encoder)):
            raise self._refused("takes no embedded tokens under a mask, so it cannot be causal")
        norms = [name for name in _LAST_NORMS if isinstance(getattr(self.stack, name, None), nn.LayerNorm)]
        return "encoder", norms[0] if norms else None

    @contextmanager
    def _showing_attention(self) -> Iterator[None]:
        """Compute attention in the way that keeps its weights; the numbers are the same to rounding."""
        before = self.stack.config._attn_implementation  # pyright: ignore[reportAttributeAccessIssue]
        self.stack.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
        try:
            yield
        finally:
            self.stack.set_attn_implementation(before)  # pyright: ignore[reportCallIssue]

    def _probe(self) -> None:
        """Check that the trunk is causal, and empty the weights that no token meets."""
        was_training = self.training
        self.eval()
        random = torch.Generator().manual_seed(0)
        length = min(_PROBED, self._table.num_embeddings - self._first) if self._table is not None else _PROBED
        tokens = torch.randn(1, length, self.width, generator=random)
        changed = tokens.clone()
        changed[:, length // 2] = torch.randn(self.width, generator=random)
        try:
            with torch.enable_grad():
                hidden = self.run_at(tokens, slice(None))
                parameters = dict(self.stack.named_parameters())
                met = torch.autograd.grad(hidden.square().sum(), list(parameters.values()), allow_unused=True)
            repeated = self.run_at(tokens, slice(None))
            moved = (self.run_at(changed, slice(None)) - hidden).abs().amax((0, 2))
        except RLTransformerError:
            raise
        except Exception as error:
            raise self._refused(f"does not take embedded tokens alone ({type(error).__name__}: {error})") from None
        if hidden.shape[2] != self.width or not moved[: length // 2].max() <= 1e-4 * hidden.abs().max():
            raise self._refused("is not causal: a token changes what comes before it")
        if not torch.allclose(repeated, hidden, atol=1e-5):
            raise self._refused("does not answer the same twice")
        kept = {id(table.weight) for table in self.stack.modules() if hasattr(table, "silent")}
        for (name, parameter), gradient in zip(parameters.items(), met, strict=True):
            if gradient is None and "expert" not in name:  # other tokens may meet other experts
                parameter.requires_grad_(False)
                if id(parameter) not in kept:
                    parameter.data = parameter.new_empty(0)
        self.train(was_training)

    def _refused(
        self, problem: str, fix: str = "choose a causal transformer, such as GPT-2, T5 or Llama"
    ) -> RLTransformerError:
        return RLTransformerError(f"{self.kind} {problem}"[:600], where="model.trunk", fix=fix)


def build_transformer(config: dict[str, Any]) -> nn.Module:
    """Return a transformer with random weights from plain values."""
    require("transformers", extra="lm", purpose="a policy with a Hugging Face trunk")
    try:
        built = from_plain(config)
        return model_class(built, head=False, where="model.trunk")(built).float()
    except RLTransformerError:
        raise
    except Exception as error:  # of any kind: the values may come from a damaged file
        raise RLTransformerError(
            f"cannot be built: {' '.join(str(error).split())[:300]}",
            where="model.trunk",
            fix="restore the policy from a copy, or pass a sound configuration",
        ) from None


def causal_part(module: nn.Module) -> nn.Module:
    """Return the stack of blocks that predicts forward: the decoder of two stacks, the text tower of two towers."""
    if not hasattr(module, "config") or not hasattr(module.config, "to_dict"):
        raise RLTransformerError(
            f"{type(module).__name__} is not a transformer of Hugging Face",
            where="transformer",
            fix="pass a model of the transformers library",
        )
    if module.config.is_encoder_decoder:  # pyright: ignore[reportAttributeAccessIssue]
        return module.get_decoder()  # pyright: ignore[reportCallIssue]
    base: nn.Module = getattr(module, "base_model", module)  # pyright: ignore[reportAssignmentType]
    if type(base).__name__.endswith("DecoderWrapper"):  # BART's and its kin's causal language models
        return base.get_submodule("decoder")
    for name in _TOWERS:
        if isinstance(getattr(base, name, None), nn.Module):
            return getattr(base, name)
    return base


def copy_weights(trunk: HFTrunk, module: nn.Module) -> None:
    """Copy the causal part of ``module`` into a trunk of the same architecture; every weight must be in its file."""
    names = {id(p): name for name, p in module.named_parameters(remove_duplicate=False)}
    source, absent = dict(causal_part(module).named_parameters()), getattr(module, "absent_weights", set())
    with torch.no_grad():
        for name, parameter in trunk.stack.named_parameters():
            if parameter.numel() == 0:
                continue
            if names[id(source[name])] in absent:
                raise RLTransformerError(
                    f"the file lacks {names[id(source[name])]}",
                    where="model.trunk",
                    fix="name a folder with whole weights",
                )
            parameter.copy_(source[name])
    for name, buffer in causal_part(module).named_buffers():
        trunk.stack.get_buffer(name).copy_(buffer)


def fields_of(module: nn.Module) -> dict[str, Any]:
    """Return what a transformer that was passed as a module decides in a `DecisionTransformerConfig`."""
    causal_part(module)  # refuses what is none
    return foreign_fields(copy.deepcopy(module.config))


def _arguments(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def position_table(module: nn.Module) -> nn.Embedding | None:
    """Return the table of absolute positions, if there is one."""
    return next((table for _, table in _tables(module, _POSITIONS)), None)


def first_position(module: nn.Module, table: nn.Embedding) -> int:
    """Return the row of the first token's position: OPT, BART and RoBERTa keep rows before it."""
    if any(hasattr(part, "create_position_ids_from_inputs_embeds") for part in module.modules()):
        return (table.padding_idx or 0) + 1
    return int(getattr(table, "offset", 0))


def _tables(module: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Embedding]]:
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding) and name.rpartition(".")[2] in names:
            yield name, part


def _within(table: nn.Module, inputs: Any) -> Any:
    """Let a silent table be asked for places beyond its end."""
    # Positions of the model's own making must stay 0, 1, 2, ...: others would mean several packed sequences to it.
    return tuple(i.clamp(max=table.num_embeddings - 1) for i in inputs) if table.silent else None  # pyright: ignore


def _silence(table: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output) if table.silent else output  # pyright: ignore[reportGeneralTypeIssues]
