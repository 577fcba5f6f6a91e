"""Decision Transformer (Chen et al. 2021), which predicts actions from returns-to-go, observations and earlier actions.

Shapes: B windows, T timesteps, C numbers of all conditions, S tokens of an observation, P tokens per timestep, L = P * T
tokens, E hidden_size, F parameters of the action head; *state and *action are the axes of one observation and of one
action. The tokens of a timestep are (conditions..., observation, action).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.models.config import RETURN_TO_GO, DecisionTransformerConfig
from rl_transformer.models.embeddings import WindowPositions, make_state_encoder, vector_embedding
from rl_transformer.models.heads import HEADS, make_action_head
from rl_transformer.models.huggingface.trunk import HFTrunk, fields_of
from rl_transformer.models.interface import PolicyModel
from rl_transformer.models.layout import load_model, save_model
from rl_transformer.models.output import DecisionTransformerOutput, read_forward_arguments
from rl_transformer.models.parts import check_same_parts
from rl_transformer.models.sizes import SizesFromData, model_sizes
from rl_transformer.models.trunk.interface import Trunk, make_trunk
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.reproducible_sums import neighborhood, read_rows
from rl_transformer.runtime.shapes import Float, Int, Shaped


class TokenEmbeddings(NamedTuple):
    """The tokens of a batch of windows."""

    tokens: Float[Tensor, "B L E"]
    """The input of the trunk."""
    normalized: Float[Tensor, "B L E"]
    """The output of the layer norm, which alignment compares with word embeddings.

    As published, the timestep embedding is added before the layer norm, and both are the same; with
    ``timestep_embedding`` after_norm it is added to `tokens` only.
    """


class DecisionTransformerModel(PolicyModel):
    """The model of the paper; its tensors are named as in transformers.

    `forward` computes everything that transformers' model returns. Training and acting call
    `predict_actions`, which computes only what a loss or an action needs.

    Initial weights: embeddings, heads and norms as torch initializes them, the trunk N(0, initializer_range) with
    biases 0, the timestep table N(0, timestep_initializer_range).

    Args:
        config: Sizes and options.
        encoder: The trunk, if it exists already; None builds it from ``config``.
    """

    def __init__(self, config: DecisionTransformerConfig, *, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.encoder = make_trunk(config) if encoder is None else encoder
        self.embed_timestep = nn.Embedding(config.max_ep_len, width)
        widths = dict(zip(config.conditions, config.widths, strict=True))
        # embed_return is transformers' name; embeddings of other conditions are in a dictionary of their own.
        if RETURN_TO_GO in widths:
            self.embed_return = vector_embedding(config, widths.pop(RETURN_TO_GO))
        self.embed_conditions = nn.ModuleDict({name: vector_embedding(config, size) for name, size in widths.items()})
        self.embed_state = make_state_encoder(config)
        head = HEADS.get(config.action_head, where="model.action_head")
        self._action_kinds = tuple(head.space_kinds)
        self.embed_action = head.make_embedding(config)
        # The published Atari model squashes its tokens, see `WindowPositions`, and has no norm before the blocks.
        is_window = config.timestep_embedding == "window"
        self.embed_ln = nn.Identity() if is_window else nn.LayerNorm(width)
        self.embed_position = WindowPositions(config) if is_window else None
        if not config.extensions_in_use:
            # The paper does not train these heads either, but transformers' files have them.
            self.predict_state = nn.Linear(width, config.state_dim)
            self.predict_return = nn.Linear(width, 1)
        self.predict_action = make_action_head(config)
        nn.init.normal_(self.embed_timestep.weight, std=0.0 if is_window else config.timestep_initializer_range)

    @property
    def trunk(self) -> Trunk:
        """Return the trunk as its interface; ``encoder`` is its name in transformers' files."""
        return cast(Trunk, self.encoder)

    def embed(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        conditions: Float[Tensor, "B T C"],
        timesteps: Int[Tensor, "B T"],
    ) -> TokenEmbeddings:
        """Embed and interleave the inputs of `predict_actions`."""
        return self.embed_encoded(self.embed_state(states), actions, conditions, timesteps)

    def embed_encoded(
        self,
        encoded: Float[Tensor, "B T E"] | Float[Tensor, "B T S E"],
        actions: Shaped[Tensor, "B T *action"],
        conditions: Float[Tensor, "B T C"],
        timesteps: Int[Tensor, "B T"],
    ) -> TokenEmbeddings:
        """Embed and interleave the inputs, of which the states were encoded by ``embed_state`` before; S tokens for each."""
        time = self.embed_timestep(timesteps)  # (B, T, E)
        if self.embed_position is not None:
            embedded = [*self._embed_conditions(conditions), self.embed_action(actions)]
            tokens, squashed = self.embed_position(embedded, encoded, time)
            return TokenEmbeddings(tokens.flatten(1, 2), squashed.flatten(1, 2))
        after_norm = self.config.timestep_embedding == "after_norm"
        early_time = torch.zeros_like(time) if after_norm else time
        parts = encoded.unbind(2) if self.config.tokens_per_observation > 1 else [encoded]
        *earlier_parts, observation = [part + early_time for part in parts]
        tokens = []
        for embedded in self._embed_conditions(conditions):
            if self.config.condition_entry == "added":
                observation = observation + embedded
            else:
                tokens.append(embedded + early_time)
        tokens += [*earlier_parts, observation, self.embed_action(actions) + early_time]
        # Stacked behind the timesteps, so that flattening both axes interleaves the tokens.
        normalized = self.embed_ln(torch.stack(tokens, dim=2))  # (B, T, P, E)
        late = normalized + time[:, :, None] if after_norm else normalized
        return TokenEmbeddings(late.flatten(1, 2), normalized.flatten(1, 2))

    def _embed_conditions(self, conditions: Float[Tensor, "B T C"]) -> list[Float[Tensor, "B T E"]]:
        """Return one embedding per condition."""
        if not self.config.conditions:
            return []
        parts = conditions.split(list(self.config.widths), dim=-1)
        return [
            self.embed_return(part) if name == RETURN_TO_GO else self.embed_conditions[name](part)
            for name, part in zip(self.config.conditions, parts, strict=True)
        ]

    def predict_actions(
        self,
        states: Shaped[Tensor, "B T *state"],
        actions: Shaped[Tensor, "B T *action"],
        conditions: Float[Tensor, "B T C"],
        timesteps: Int[Tensor, "B T"],
        *,
        at: int | None = None,
    ) -> Float[Tensor, "B T F"] | Float[Tensor, "B F"]:
        """Return the action head's parameters at the observation tokens; arguments as in `PolicyModel`.

        The prediction at t sees conditions and observations up to t and actions before t. Windows
        are left-aligned, so that no real step sees the padding behind it.
        """
        tokens = self.embed(states, actions, conditions, timesteps).tokens
        return self.actions_from(tokens) if at is None else self.action_from(tokens, at)

    def action_from(self, tokens: Float[Tensor, "B L E"], at: int) -> Float[Tensor, "B F"]:
        """Return the action head's parameters at the observation token of timestep ``at``."""
        tokens = tokens[:, :-1]
        position = at * self.config.tokens_per_timestep + self.config.observation_token
        # One position would be enough, but its sums would depend on the batch size: see reproducible_sums.
        around, place = neighborhood(position, tokens.shape[1])
        return read_rows(self._read_actions, self.trunk.hidden_at(tokens, around)[:, place])

    def actions_from(self, tokens: Float[Tensor, "B L E"]) -> Float[Tensor, "B T F"]:
        """Return the action head's parameters at every observation token."""
        observations = slice(self.config.observation_token, None, self.config.tokens_per_timestep)
        # No prediction sees the last action.
        return self._read_actions(self.trunk.hidden_at(tokens[:, :-1], observations))

    def _read_actions(self, hidden: Float[Tensor, "*B E"]) -> Float[Tensor, "*B F"]:
        """Return the action head's parameters at hidden states."""
        # A tied head has no weight: what it reads are products of the hidden state with the embeddings of the actions.
        if self.config.tie_action_head:
            weight = cast(nn.Linear, self.embed_action).weight  # (E, A) of a linear layer, (A, E) of a table
            hidden = hidden @ (weight if isinstance(self.embed_action, nn.Linear) else weight.t())
        return self.predict_action(hidden)

    def next_action_from(self, tokens: Float[Tensor, "B L E"], cache: KVCache) -> Float[Tensor, "B F"]:
        """Return the action head's parameters at the newest observation, with sliding-window attention.

        Args:
            tokens: Of the previous timestep and this one, from `embed`; the last action is ignored.
            cache: Earlier tokens of the same sessions; `KVCache.begin` was called for this timestep.
        """
        per_step = self.config.tokens_per_timestep
        new = tokens[:, per_step - 1 : -1]  # the last action, then conditions and observation of this timestep
        return read_rows(self._read_actions, self.trunk.decode_step(new, cache)[:, -1])

    def forward(
        self,
        states: Shaped[Tensor, "..."],
        actions: Shaped[Tensor, "..."],
        rewards: Shaped[Tensor, "..."] | None = None,
        returns_to_go: Shaped[Tensor, "..."] | None = None,
        timesteps: Shaped[Tensor, "..."] | None = None,
        attention_mask: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> DecisionTransformerOutput | tuple[Tensor | None, ...]:
        """Compute every prediction, as transformers' model does (same arguments, same numbers).

        Args:
            states: (B, T, *state), normalized.
            actions: (B, T, *action), as in `predict_actions`.
            rewards: Ignored, as in transformers, because rewards are no tokens.
            returns_to_go: (B, T, 1), scaled; the numbers of all conditions if there are others.
            timesteps: (B, T) or (1, T); None stands for 0, 1, 2, ...
            attention_mask: (B, T), 1 at real steps and 0 at padding, which may be on either side.
            output_hidden_states: Return n_layer + 1 hidden states, the last of them after ln_f.
            output_attentions: Return the attention weights of every layer.
            return_dict: Return a `DecisionTransformerOutput` rather than the tuple of the three predictions.

        Raises:
            RLTransformerError: A wrong shape or dtype, a timestep beyond the table, a mask with other values than 0 and
                1, or a sequence that is all padding.
        """
        dtype = self.embed_timestep.weight.dtype
        states, actions, returns_to_go, timesteps, mask = read_forward_arguments(
            self.config, self._action_kinds, dtype, states, actions, returns_to_go, timesteps, attention_mask
        )
        if timesteps is None:
            timesteps = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        if returns_to_go is None:
            returns_to_go = states.new_zeros(*states.shape[:2], 0, dtype=torch.float32)
        per_step = self.config.tokens_per_timestep
        # A timestep is padding with all of its tokens.
        valid = None if mask is None else mask.bool().repeat_interleave(per_step, dim=1)
        tokens = self.embed(states, actions, returns_to_go, timesteps).tokens
        trunk = self.trunk.run(tokens, valid, keep_hidden=output_hidden_states, keep_weights=output_attentions)
        per_timestep = trunk.last_hidden_state.unflatten(1, (-1, per_step))  # (B, T, P, E)
        # The next state and return follow from the action, so they are predicted at its token, the last one.
        action_token = per_timestep[:, :, -1]
        has_heads = hasattr(self, "predict_state")
        state_preds = self.predict_state(action_token) if has_heads else None
        return_preds = self.predict_return(action_token) if has_heads else None
        action_preds = self._read_actions(per_timestep[:, :, self.config.observation_token])
        if not return_dict:
            return state_preds, action_preds, return_preds
        return DecisionTransformerOutput(
            state_preds=state_preds,
            action_preds=action_preds,
            return_preds=return_preds,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
            last_hidden_state=trunk.last_hidden_state,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DecisionTransformerModel:
        """Load a model from a local folder in transformers' layout (config.json, model.safetensors)."""
        return load_model(cls, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors so that transformers computes the same numbers."""
        # Another class, or other parts, would be loaded as a model that computes something else.
        if not self.config.extensions_in_use:
            with torch.random.fork_rng(devices=[]):
                check_same_parts(self, DecisionTransformerModel(self.config))
        save_model(self, self.config, folder)


class DecisionTransformer(DecisionTransformerModel):
    """A Decision Transformer around an existing transformer: ``DecisionTransformer(transformer=T5Model(...), ...)``.

    Args:
        transformer: A model of the transformers library that can be causal: a decoder, or an encoder-decoder, of which
            the decoder is used. A copy of that part, with its weights, becomes the trunk.
        state_dim: Length of an observation vector, or (channels, height, width) of uint8 images.
        act_dim: Length of an action vector; the number of actions with ``action_head="discrete"``.
        dataset: The dataset whose sizes and kind of action the model fits, instead of ``state_dim`` and ``act_dim``.
        options: Further fields of `DecisionTransformerConfig`.

    Raises:
        RLTransformerError: The transformer cannot be causal, or the sizes are given twice or not at all.
    """

    def __init__(
        self,
        transformer: nn.Module,
        state_dim: int | Sequence[int] | None = None,
        act_dim: int | None = None,
        *,
        dataset: SizesFromData | None = None,
        **options: Any,
    ) -> None:
        sizes = model_sizes(state_dim, act_dim, dataset)
        trunk_fields = fields_of(transformer)
        encoder = HFTrunk(trunk_fields["trunk"], transformer, token_positions=options.get("token_positions", False))
        super().__init__(DecisionTransformerConfig(**{**sizes, **trunk_fields, **options}), encoder=encoder)
