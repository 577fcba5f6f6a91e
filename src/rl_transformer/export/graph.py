"""Modules from what an environment returns to what it executes, which are traced into an exported file.

They are made of the parts with which sessions act (normalizer, model, action head), so there is no second definition of a
policy. What remains for a client is to remember a window.

Shapes: B episodes, T timesteps, A length of an action vector, C numbers of all conditions, F parameters of the action head, M length of a legal-action
mask, U uniform numbers, K cached tokens, KV = 2 E: a key and a value; *state and *action are the axes of one observation and
of one action, *shape those of one value of the action space.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from rl_transformer.models.decision_transformer import DecisionTransformerModel
from rl_transformer.models.return_model import select_return
from rl_transformer.models.trunk.kv_cache import KVCache, visible_tokens
from rl_transformer.policy import Policy
from rl_transformer.policy.actions import limits_in_dtype
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int, Shaped


class PolicyModule(nn.Module):
    """What both forms of an exported policy share: the units of their inputs, and the choice of an action."""

    scales: Float[Tensor, "C"]
    first: Int[Tensor, "*action"]
    low: Shaped[Tensor, "A"]
    high: Shaped[Tensor, "A"]

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.spec = policy.spec
        self.model = policy.model
        self.return_model = policy.return_model if policy.spec.target == "generated" else None
        self.normalizer = policy.normalizer
        space = policy.spec.data.action_space
        self.space = space
        scales = [np.full(condition.width, condition.scale, np.float32) for condition in policy.spec.conditions]
        self.register_buffer("scales", torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *scales])))
        if space.is_continuous:
            low, high = limits_in_dtype(space)
            self.register_buffer("low", torch.from_numpy(low))
            self.register_buffer("high", torch.from_numpy(high))
        else:
            self.register_buffer("first", torch.as_tensor(space.first_values))

    def to_model_actions(self, executed: Shaped[Tensor, "*B *action"]) -> Shaped[Tensor, "*B *action"]:
        """Return executed actions in the model's units."""
        if self.space.is_continuous:
            return self.normalizer.to_model_actions(executed)
        return executed - self.first

    def choose(
        self,
        parameters: Float[Tensor, "B F"],
        allowed: Bool[Tensor, "B M"] | None,
        uniforms: Float64[Tensor, "B U"] | None,
    ) -> Shaped[Tensor, "B *shape"]:
        """Return the actions to execute."""
        head = self.model.predict_action
        drawn = head.greedy(parameters, allowed) if uniforms is None else head.sample(parameters, uniforms, allowed)
        if not self.space.is_continuous:
            values = drawn + self.first
            return values if self.space.kind == "discrete" else values.unflatten(-1, self.space.shape)
        low, high = self.low, self.high
        values = self.normalizer.to_env_actions(drawn)
        # As in policy.actions.fit: clipped in the dtype of the space, because a conversion may round.
        if low.is_floating_point():
            fitted = values.to(low.dtype).clamp(low, high)
        else:
            fitted = values.double().round().clamp(low.double(), high.double()).to(low.dtype)
        return fitted.unflatten(-1, self.space.shape)


class WindowModule(PolicyModule):
    """Acts on windows of any length; they are left-aligned, and what follows the last real timestep is ignored."""

    def forward(
        self,
        observations: Shaped[Tensor, "B T *state"],
        lengths: Int[Tensor, "B"],
        actions: Shaped[Tensor, "B T *action"] | None = None,
        conditions: Float[Tensor, "B T C"] | None = None,
        timesteps: Int[Tensor, "B T"] | None = None,
        allowed: Bool[Tensor, "B M"] | None = None,
        uniforms: Float64[Tensor, "B U"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the actions, the head's parameters and, if the policy generates them, the returns-to-go.

        Args:
            observations: Flattened, and stacked if the policy stacks frames; not normalized.
            lengths: The number of real timesteps of each window, the newest one included.
            actions: As executed; the newest one is ignored, as it is to be chosen.
            conditions: In the data's units.
            timesteps: Counted from the start of the episode.
            allowed: True at legal actions.
            uniforms: Random numbers in [0, 1), if the policy samples.
        """
        states = self.normalizer.normalize(observations)
        batch, time = states.shape[:2]
        rows = torch.arange(batch, device=states.device)
        newest = lengths - 1
        if actions is None or timesteps is None:
            no_numbers = states.new_zeros(batch, time, 0, dtype=torch.float32)
            no_steps = states.new_zeros(batch, time, dtype=torch.int64)
            parameters = self.model.predict_actions(states, no_numbers, no_numbers, no_steps)[rows, newest]
            return self.choose(parameters, allowed, uniforms), parameters
        done = self.to_model_actions(actions)
        scaled = (
            states.new_zeros(batch, time, 0, dtype=torch.float32) if conditions is None else conditions / self.scales
        )
        # As in sessions and in the windows of training, timesteps beyond the table share its last row.
        times = timesteps.clamp(max=self.spec.model.max_ep_len - 1)
        if self.return_model is None:
            parameters = self.model.predict_actions(states, done, scaled, times)[rows, newest]
            return self.choose(parameters, allowed, uniforms), parameters
        log_probabilities = self.return_model(states, done, times)[rows, newest, 0]
        chosen = self.return_model.values[
            select_return(log_probabilities, self.spec.prior_exponent, self.spec.prior_floor)
        ]
        names = [condition.name for condition in self.spec.conditions]
        column = sum(self.spec.model.widths[: names.index("return_to_go")])
        is_newest = torch.arange(time, device=states.device) == newest[:, None]  # (B, T)
        returns = torch.where(is_newest, chosen[:, None], scaled[..., column])
        scaled = torch.cat([scaled[..., :column], returns[..., None], scaled[..., column + 1 :]], dim=-1)
        parameters = self.model.predict_actions(states, done, scaled, times)[rows, newest]
        return self.choose(parameters, allowed, uniforms), parameters, chosen * self.spec.returns.scale


class _GivenCache:
    """A KV cache in the arguments of a call rather than in memory: newest tokens last, older ones moved forward."""

    def __init__(
        self, cached: Float[Tensor, "B layers K KV"], steps: Int[Tensor, "B"], span: int, per_step: int
    ) -> None:
        self._cached = cached
        capacity = cached.shape[2]
        # The newest token is the observation of this timestep; the first new one is the action of the one before.
        last = steps[:, None] * per_step + per_step - 2
        held = last + torch.arange(1 - capacity, 1, device=steps.device)  # (B, K): each token's number in its episode
        new = last + torch.arange(1 - per_step, 1, device=steps.device)
        self.visible = visible_tokens(new[:, :, None], held[:, None], span, per_step)
        self.layers: list[Float[Tensor, "B K KV"]] = []

    def put(self, layer: int, new: Float[Tensor, "B P KV"]) -> Float[Tensor, "B K KV"]:
        """Append a layer's keys and values of the new tokens, and return all of them."""
        self.layers.append(torch.cat([self._cached[:, layer, new.shape[1] :], new], dim=1))
        return self.layers[-1]


class StepModule(PolicyModule):
    """Acts on the newest timestep and the keys and values of the earlier ones, with sliding-window attention."""

    def forward(
        self,
        observation: Shaped[Tensor, "B *state"],
        action_before: Shaped[Tensor, "B *action"],
        timestep: Int[Tensor, "B"],
        cache: Float[Tensor, "B layers K KV"],
        conditions: Float[Tensor, "B C"] | None = None,
        allowed: Bool[Tensor, "B M"] | None = None,
        uniforms: Float64[Tensor, "B U"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the actions, the head's parameters and the next cache; an episode begins with a cache of zeros.

        Args:
            observation: As in `WindowModule`, of this timestep only.
            action_before: The action executed at the timestep before; at the first timestep any action, which is ignored.
            timestep: Counted from the start of the episode.
            cache: What the call at the timestep before returned.
            conditions: In the data's units.
            allowed: True at legal actions.
            uniforms: Random numbers in [0, 1), if the policy samples.
        """
        model = cast(DecisionTransformerModel, self.model)
        config = self.spec.model
        assert config.attention_span is not None
        encoded = model.embed_state(self.normalizer.normalize(observation)[:, None])  # (B, 1, E)
        scaled = encoded.new_zeros(encoded.shape[0], 0) if conditions is None else conditions / self.scales
        done = self.to_model_actions(action_before)
        # Two timesteps: of the one before only the action's token is read.
        states, actions, both = (part[:, None].repeat_interleave(2, dim=1) for part in (encoded[:, 0], done, scaled))
        times = torch.stack([(timestep - 1).clamp(min=0), timestep], dim=1).clamp(max=config.max_ep_len - 1)
        tokens = model.embed_encoded(states, actions, both, times).tokens
        given = _GivenCache(cache, timestep, config.attention_span, config.tokens_per_timestep)
        parameters = model.next_action_from(tokens, cast(KVCache, given))
        return self.choose(parameters, allowed, uniforms), parameters, torch.stack(given.layers, dim=1)
