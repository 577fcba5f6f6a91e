"""Decision Transformer (Chen et al. 2021): returns-to-go, observations and actions in, actions out.

Shapes: B batch, T timesteps, C conditions, P tokens a timestep, A act_dim, E hidden_size. One
timestep is the tokens (conditions..., observation, action), so the trunk sees P * T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.config import RETURN_TO_GO, DecisionTransformerConfig
from rl_transformer.models.encoders import DiscreteActionEmbedding, ImageEncoder, vector_embedding
from rl_transformer.models.gpt2 import DecisionTransformerGPT2Model, rows_around
from rl_transformer.models.heads import make_action_head
from rl_transformer.models.hf_layout import load_model, save_model
from rl_transformer.models.hf_trunk import HFTrunk, fields_of
from rl_transformer.models.stream import TokenStream


@dataclass
class DecisionTransformerOutput:
    """What `forward` returns; field names and order are those of transformers."""

    state_preds: Tensor | None = None
    action_preds: Tensor | None = None
    return_preds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None

    def to_tuple(self) -> tuple:
        """Return the fields that are not None, in order."""
        values = [getattr(self, f.name) for f in fields(self)]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: int | str) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]


Trunk = DecisionTransformerGPT2Model | HFTrunk
"""The blocks: ours, or a transformer of Hugging Face."""


class DecisionTransformerModel(nn.Module):
    """The model of the paper; its tensors are named as in transformers.

    `forward` computes everything that transformers' model returns. Training and acting call
    `predict_actions`, which computes only what a loss or an action needs.
    """

    def __init__(self, config: DecisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.words: Any = None
        """While a text is learned beside: its word table and head. No policy holds them."""
        width = config.hidden_size
        self.encoder = self._trunk(config)
        self.embed_timestep = nn.Embedding(config.max_ep_len, width)
        if RETURN_TO_GO in config.conditions:
            self.embed_return = vector_embedding(config, 1)
        others = [name for name in config.conditions if name != RETURN_TO_GO]
        self.embed_conditions = nn.ModuleDict({name: vector_embedding(config, 1) for name in others})
        if config.image_shape is None:
            self.embed_state = vector_embedding(config, config.state_dim)
        else:
            self.embed_state = ImageEncoder(config.image_shape, width)
        discrete = config.action_head == "discrete"
        self.embed_action = (
            DiscreteActionEmbedding(config.act_dim, width) if discrete else vector_embedding(config, config.act_dim)
        )
        self.embed_ln = nn.LayerNorm(width)
        if not config.extensions_in_use:
            # Heads of transformers' model that the paper does not train either.
            self.predict_state = nn.Linear(width, config.state_dim)
            self.predict_return = nn.Linear(width, 1)
        self.predict_action = make_action_head(config)
        nn.init.normal_(self.embed_timestep.weight, std=config.timestep_initializer_range)

    def _trunk(self, config: DecisionTransformerConfig) -> Trunk:
        if config.trunk is None:
            return DecisionTransformerGPT2Model(config, with_tables=False)
        return HFTrunk(config.trunk, token_positions=config.token_positions)

    def tokens(self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor) -> Tensor:
        """Embed and interleave: (B, T, ...) inputs -> (B, P * T, E) tokens."""
        return self.tokens_and_embedded(states, actions, conditions, timesteps)[0]

    def tokens_and_embedded(
        self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens, and what alignment compares with words: the tokens as they leave the layer norm.

        As published the timestep's embedding is added before the layer norm, and both are the same; with
        ``time`` after_norm it is added to the tokens only (Reid et al.'s code). (B, P * T, E) each.
        """
        time = self.embed_timestep(timesteps)  # (B, T, E)
        early = time if self.config.time == "before_norm" else torch.zeros_like(time)
        observation = self.embed_state(states) + early
        embedded = [
            self._embed_condition(name)(conditions[..., i : i + 1]) for i, name in enumerate(self.config.conditions)
        ]
        if self.config.condition_entry == "added":
            before = []
            for condition in embedded:
                observation = observation + condition
        else:
            before = [condition + early for condition in embedded]
        stacked = torch.stack([*before, observation, self.embed_action(actions) + early], dim=2)  # (B, T, P, E)
        normed = self.embed_ln(stacked)
        timed = normed if self.config.time == "before_norm" else normed + time[:, :, None]
        return timed.flatten(1, 2), normed.flatten(1, 2)

    def _embed_condition(self, name: str) -> nn.Module:
        return self.embed_return if name == RETURN_TO_GO else self.embed_conditions[name]

    def predict_actions(
        self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor, *, at: int | None = None
    ) -> Tensor:
        """Return the action head's parameters at the observation tokens.

        The prediction at t sees conditions and observations up to t and actions before t. Windows
        are left-aligned: what stands after a window's last step cannot be seen by any earlier one.

        Args:
            states: (B, T, state_dim), normalized; (B, T, *image_shape) uint8 for images.
            actions: (B, T, A) in [-1, 1], or (B, T) whole numbers with a discrete head.
            conditions: (B, T, C), scaled.
            timesteps: (B, T) whole numbers below max_ep_len.
            at: Predict only this timestep of every window: what acting needs. None predicts all.

        Returns:
            (B, T, parameters), or (B, parameters) with ``at``.
        """
        tokens = self.tokens(states, actions, conditions, timesteps)
        if at is None:
            return self.actions_from(tokens)
        tokens, first = tokens[:, :-1], self.config.observation_token
        rows, place = rows_around(at * self.config.tokens_per_timestep + first, tokens.shape[1])
        return self._read(self.encoder.run_at(tokens, rows))[:, place]

    def actions_from(self, tokens: Tensor) -> Tensor:
        """Return the action head's parameters (B, T, parameters) at every observation token of (B, P * T, E)."""
        every = slice(self.config.observation_token, None, self.config.tokens_per_timestep)
        return self._read(self.encoder.run_at(tokens[:, :-1], every))  # nothing that is predicted sees the last action

    def _read(self, hidden: Tensor) -> Tensor:
        """Return the action head's parameters at hidden states (..., E)."""
        if self.config.tie_action_head:
            embedding: Any = self.embed_action  # (A, E) of a table, (E, A) of a linear layer
            weight = embedding.weight if self.config.action_head == "continuous" else embedding.weight.t()
            hidden = hidden @ weight
        return self.predict_action(hidden)

    def predict_next(
        self, states: Tensor, actions: Tensor, conditions: Tensor, timesteps: Tensor, stream: TokenStream
    ) -> Tensor:
        """Return the action head's parameters (B, parameters) at the newest observation, by streaming attention.

        Args:
            states: (B, 2, ...) the timestep before and this one; so are the others, as in `predict_actions`.
            actions: The first is the last action; the second is not looked at.
            conditions: Scaled.
            timesteps: Whole numbers below max_ep_len.
            stream: Tokens before these, of the same sessions; `TokenStream.begin` was called.
        """
        per_step = self.config.tokens_per_timestep
        new = self.tokens(states, actions, conditions, timesteps)[:, per_step - 1 : -1]
        assert isinstance(self.encoder, DecisionTransformerGPT2Model)
        return self._read(self.encoder.run_next(new, stream))[:, -1]  # of all of them: see SAME_SUMS_FROM

    def forward(
        self,
        states: Tensor,
        actions: Tensor,
        rewards: Tensor | None = None,
        returns_to_go: Tensor | None = None,
        timesteps: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> DecisionTransformerOutput | tuple[Tensor | None, ...]:
        """Compute every prediction, as transformers' model does (same arguments, same numbers).

        Args:
            states: (B, T, state_dim).
            actions: (B, T, act_dim).
            rewards: Accepted and not used, as there: rewards are no tokens.
            returns_to_go: (B, T, 1), scaled.
            timesteps: (B, T); 0, 1, 2, ... if not given.
            attention_mask: (B, T), nonzero at real steps; padding may stand on either side.
            output_hidden_states: Return n_layer + 1 hidden states, the last after ln_f.
            output_attentions: Return the attention weights of every layer.
            return_dict: Return a `DecisionTransformerOutput`; otherwise the three predictions.

        Raises:
            RLTransformerError: A timestep beyond the table, or a sequence that is all padding.
        """
        self._check_forward(states, returns_to_go, timesteps, attention_mask)
        if timesteps is None:
            timesteps = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        if returns_to_go is None:
            returns_to_go = states.new_zeros(*states.shape[:2], 0)
        per_step = self.config.tokens_per_timestep
        valid = None if attention_mask is None else attention_mask.bool().repeat_interleave(per_step, dim=1)
        tokens = self.tokens(states, actions, returns_to_go, timesteps)
        trunk = self.encoder.run(tokens, valid, keep_hidden=output_hidden_states, keep_weights=output_attentions)
        per_timestep = trunk.last_hidden_state.unflatten(1, (-1, per_step))  # (B, T, P, E)
        action_token = per_timestep[:, :, -1]
        has_heads = hasattr(self, "predict_state")
        state_preds = self.predict_state(action_token) if has_heads else None
        return_preds = self.predict_return(action_token) if has_heads else None
        action_preds = self._read(per_timestep[:, :, self.config.observation_token])
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

    def _check_forward(
        self, states: Tensor, returns_to_go: Tensor | None, timesteps: Tensor | None, attention_mask: Tensor | None
    ) -> None:
        where = "DecisionTransformerModel.forward"
        if self.config.conditions == (RETURN_TO_GO,) and (
            returns_to_go is None or returns_to_go.shape[:2] != states.shape[:2]
        ):
            got = None if returns_to_go is None else tuple(returns_to_go.shape)
            raise RLTransformerError(
                f"returns_to_go has shape {got}, and the states {tuple(states.shape)}",
                where=where,
                fix=f"pass returns_to_go of shape {(*states.shape[:2], 1)}",
            )
        length = states.shape[1] if timesteps is None else int(timesteps.max()) + 1
        if length > self.config.max_ep_len:
            raise RLTransformerError(
                f"timestep {length - 1} is beyond the table of {self.config.max_ep_len} timesteps",
                where=where,
                fix=f"build the model with max_ep_len of {length} or more",
            )
        if attention_mask is not None and not attention_mask.bool().any(dim=1).all():
            raise RLTransformerError(
                "attention_mask has a row of zeros: that sequence is all padding",
                where=where,
                fix="put 1 at real timesteps and 0 at padded ones",
            )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DecisionTransformerModel:
        """Load a model from a local folder in transformers' layout (config.json, model.safetensors)."""
        return load_model(cls, folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors so that transformers computes the same numbers."""
        save_model(self, self.config, folder)


class DecisionTransformer(DecisionTransformerModel):
    """A Decision Transformer around a transformer that you have: ``DecisionTransformer(transformer=T5Model(...), ...)``.

    Args:
        transformer: A model of the transformers library that can be causal: a decoder, or the decoder of an encoder and
            a decoder. A copy of that part, with its weights, becomes the trunk.
        state_dim: Length of an observation vector, or (channels, height, width) of uint8 images.
        act_dim: Length of an action vector; the number of actions with ``action_head="discrete"``.
        options: Further fields of `DecisionTransformerConfig`.

    Raises:
        RLTransformerError: A transformer that cannot be causal.
    """

    def __init__(self, transformer: nn.Module, state_dim: int | Sequence[int], act_dim: int, **options: Any) -> None:
        fields = fields_of(transformer)
        given = HFTrunk(fields["trunk"], transformer, token_positions=options.get("token_positions", False))
        self.__dict__["_given"] = given  # nn.Module takes no parts before it is initialized
        seen = (
            {"state_dim": state_dim}
            if isinstance(state_dim, int)
            else {"state_dim": 1, "image_shape": tuple(state_dim)}
        )
        super().__init__(DecisionTransformerConfig(**seen, act_dim=act_dim, **fields, **options))

    def _trunk(self, config: DecisionTransformerConfig) -> Trunk:
        return self.__dict__.pop("_given")


def num_parameters(model: nn.Module) -> int:
    """Count the trainable numbers of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
