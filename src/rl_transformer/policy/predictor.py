"""Run a policy's model for live sessions, from what it remembers of each of them.

Shapes: S slots, R sessions that act now, K sessions that are kept, W width of a condition, F parameters of the action head,
D length of an observation vector; *image are the axes of an image, *action those of one action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rl_transformer.conditions.interface import Target
from rl_transformer.models import PolicyModel
from rl_transformer.models.decision_transformer import DecisionTransformerModel
from rl_transformer.models.embeddings import StreamEncoder
from rl_transformer.models.image_encoders import ImageEncoder
from rl_transformer.models.return_model import ReturnModel, select_return
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.reproducible_sums import repeat_to_min_rows
from rl_transformer.policy.history import History
from rl_transformer.policy.session_state import StateFormat
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.policy.support import Support
from rl_transformer.runtime.shapes import Float, Float64, Int, Shaped
from rl_transformer.windows.normalization import Normalizer


class ActingPolicy(Protocol):
    """The part of a policy that sessions use."""

    spec: PolicySpec
    model: PolicyModel
    normalizer: Normalizer
    return_model: ReturnModel | None
    support: Support | None

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        ...

    @property
    def content_hash(self) -> str:
        """Return the hash of spec and tensors."""
        ...

    def initial_conditions(
        self, target_return: float | None, targets: Mapping[str, Target] | None = None
    ) -> dict[str, Float[np.ndarray, "_"]]:
        """Return every condition's value at an episode's first step."""
        ...

    def check_return_to_go(self, value: float) -> float:
        """Return a return-to-go as a number after the checks of a target."""
        ...

    def note_target(self, target_return: float | None, targets: Mapping[str, Target] | None = None) -> None:
        """Print a note about targets outside the training data."""
        ...


class Predictor:
    """The memory of S sessions, each in a slot, and the forward passes over it.

    With full attention it is a window of observations, conditions and actions; sessions whose windows have equal length
    are computed in one forward pass over exactly that many steps, so that an action does not depend on who acts beside
    it. With sliding-window attention it is a KV cache, from which only the newest timestep is computed.
    """

    def __init__(self, policy: ActingPolicy, slots: int) -> None:
        spec = policy.spec
        self._policy = policy
        self._device = policy.device
        self.slots = slots
        uses_cache = spec.model.attention_span is not None
        self.cache = KVCache(spec.model, slots, self._device) if uses_cache else None
        # Each image is encoded once, when it is written, and not again with every window that holds it. Encoders of
        # others may treat the images of a window differently, so theirs run over the whole window.
        self._encoder = image_encoder(policy.model)
        parts = spec.model.tokens_per_observation
        shape = (spec.model.hidden_size,) if parts == 1 else (parts, spec.model.hidden_size)
        encoded = None if self._encoder is None else shape
        # With a cache only the newest timestep and the action before it are read again. Two is also the least that
        # stacked frames need, which are made from the state before.
        length = 2 if uses_cache else max(2, spec.context_length)
        self.history = History(spec, slots, length, policy.device, encoded)

    def resize(self, keep: Int[np.ndarray, "K"], slots: int) -> None:
        """Change the number of slots; the first hold the sessions that were in ``keep``, the others are empty."""
        self.slots = slots
        self.history.resize(keep, slots)
        if self.cache is not None:
            self.cache.resize(keep, slots)

    def forget(self, slots: Int[np.ndarray, "R"]) -> None:
        """Forget the episodes in ``slots``."""
        # The history remains in memory, but every step is written before it is read.
        if self.cache is not None:
            self.cache.reset(slots)

    def write_step(
        self,
        slots: Int[np.ndarray, "R"],
        steps: Int[np.ndarray, "R"],
        observations: Shaped[np.ndarray, "R ..."],
        conditions: Mapping[str, Float64[np.ndarray, "R W"]],
    ) -> None:
        """Write a timestep without its action: the state, the conditions and the number of the timestep.

        Args:
            slots: Where the sessions are.
            steps: Their timesteps.
            observations: Flattened, not normalized.
            conditions: In the data's units.
        """
        spec = self._policy.spec
        device = self._device
        recorded = torch.from_numpy(np.ascontiguousarray(observations)).to(device)
        if spec.data.observation_space.is_image:
            recorded = self.history.stack_frames(slots, steps, recorded, steps == 0)
        # As in the windows of training, timesteps beyond the table share its last row.
        timesteps = torch.from_numpy(np.minimum(steps, spec.model.max_ep_len - 1)).to(device)
        written = {"states": self._policy.normalizer.normalize(recorded), "timesteps": timesteps}
        if spec.conditions:
            # Rounded first and divided then, as in the windows of training, for the same numbers to the bit.
            scaled = [
                conditions[condition.name].astype(np.float32) / np.float32(condition.scale)
                for condition in spec.conditions
            ]
            written["conditions"] = torch.from_numpy(np.concatenate(scaled, axis=1)).to(device)
        if self._encoder is not None:
            written["encoded"] = self._encoder.encode_sessions(written["states"])
        self.history.put(slots, steps, **written)

    def write_actions(
        self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], actions: Shaped[Tensor, "R *action"]
    ) -> None:
        """Write the actions of a timestep, in the model's units."""
        # A cache holds the action's token only after the next observation, so that writing it anew changes that, too.
        self.history.put(slots, steps, actions=actions)

    def restore_history(
        self, slot: int, steps: Int[np.ndarray, "N"], columns: dict[str, Shaped[Tensor, "N ..."]]
    ) -> None:
        """Write the last timesteps of a session that continues here."""
        if self._encoder is not None and len(steps):
            columns = {**columns, "encoded": self._encoder.encode_sessions(columns["states"].to(self._device))}
        self.history.write_session(slot, steps, columns)

    def newest_states(
        self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"]
    ) -> Float[Tensor, "R D"] | Shaped[Tensor, "R *image"]:
        """Return the states at ``steps``, as the model reads them."""
        return self.history.take(slots, steps[:, None])[0][:, 0]

    def newest_window(self, slot: int, step: int) -> tuple[Shaped[Tensor, "1 ..."], ...] | None:
        """Return the inputs of the prediction at ``step``, as `predict_actions` takes them; None if only a cache has them."""
        if self.cache is not None:
            return None
        length = min(step + 1, self._policy.spec.context_length)
        return self.history.take(np.array([slot]), np.arange(step + 1 - length, step + 1)[None])

    def parameters(
        self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"]
    ) -> tuple[Float[Tensor, "R F"], Float64[np.ndarray, "R"] | None]:
        """Return the action head's parameters at ``steps``, and the returns that were generated, if the policy does so."""
        if self.cache is not None:
            return self._decode(slots, steps, self.cache), None
        lengths = np.minimum(steps + 1, self._policy.spec.context_length)
        if (lengths == lengths[0]).all():
            return self._predict(slots, steps, int(lengths[0]))
        # Windows of different lengths are computed separately rather than padded, because the sums over a longer window
        # would be rounded differently.
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        computed = [self._predict(slots[group], steps[group], int(lengths[group[0]])) for group in groups]
        order = np.argsort(np.concatenate(groups))
        parameters = torch.cat([part for part, _ in computed])[torch.from_numpy(order)]
        generated = [part for _, part in computed if part is not None]
        return parameters, np.concatenate(generated)[order] if generated else None

    def _predict(
        self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], length: int
    ) -> tuple[Float[Tensor, "R F"], Float64[np.ndarray, "R"] | None]:
        """Return the action head's parameters from windows of one length, and the generated returns."""
        count = len(slots)
        repeated = repeat_to_min_rows(np.arange(count), length)
        slots = slots[repeated]
        window = steps[repeated][:, None] - np.arange(length - 1, -1, -1)  # oldest first
        generated = None
        if self._policy.spec.target == "generated":
            generated = self._generate_targets(slots, window[:, -1], self.history.take(slots, window))[:count]
        # Read after the targets were chosen, because they have become part of the history.
        model = self._policy.model
        if self._encoder is None:
            return model.predict_actions(*self.history.take(slots, window), at=length - 1)[:count], generated
        assert isinstance(model, DecisionTransformerModel)
        tokens = model.embed_encoded(*self.history.take_encoded(slots, window)).tokens
        return model.action_from(tokens, length - 1)[:count], generated

    def _decode(self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], cache: KVCache) -> Float[Tensor, "R F"]:
        """Return the action head's parameters from the newest tokens and the cache."""
        model = self._policy.model
        assert isinstance(model, DecisionTransformerModel)
        count = len(slots)
        repeated = repeat_to_min_rows(np.arange(count), 2)
        slots = slots[repeated]
        steps = steps[repeated]
        cache.begin(slots, steps)
        two = steps[:, None] - [1, 0]  # the last action belongs to the timestep before
        if self._encoder is None:
            tokens = model.embed(*self.history.take(slots, two)).tokens
        else:
            tokens = model.embed_encoded(*self.history.take_encoded(slots, two)).tokens
        return model.next_action_from(tokens, cache)[:count]

    def _generate_targets(
        self, slots: Int[np.ndarray, "R"], steps: Int[np.ndarray, "R"], inputs: tuple[Tensor, ...]
    ) -> Float64[np.ndarray, "R"]:
        """Choose the return-to-go of the newest timestep by the return model, write it, and return it unscaled."""
        spec = self._policy.spec
        model = self._policy.return_model
        assert model is not None
        states, actions, conditions, timesteps = inputs
        newest = states.shape[1] - 1
        log_probabilities = model.before_action(states, actions, timesteps, at=newest)
        chosen = model.values[select_return(log_probabilities, spec.prior_exponent, spec.prior_floor)]
        newest_conditions = conditions[:, newest].clone()
        names = [condition.name for condition in spec.conditions]
        column = sum(spec.model.widths[: names.index("return_to_go")])
        newest_conditions[:, column] = chosen
        self.history.put(slots, steps, conditions=newest_conditions)
        return chosen.double().cpu().numpy() * spec.returns.scale

    @property
    def state_format(self) -> StateFormat:
        """Return what the states of this policy's sessions look like."""
        shape = None if self.cache is None else self.cache.session_shape
        return StateFormat(self._policy.spec, self.history.length, self._policy.model.predict_action.num_allowed, shape)

    @property
    def nbytes(self) -> int:
        """Return the memory of all slots, in bytes."""
        return self.history.nbytes + (0 if self.cache is None else self.cache.nbytes)


def image_encoder(model: PolicyModel) -> ImageEncoder | StreamEncoder | None:
    """Return the encoder whose tokens can be kept from one action to the next; None if there is none."""
    encoder = model.embed_state if isinstance(model, DecisionTransformerModel) else None
    return encoder if isinstance(encoder, ImageEncoder | StreamEncoder) and encoder.keeps_tokens else None
