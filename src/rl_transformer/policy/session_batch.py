"""Live episodes that act together. A policy acts in no other way: a single episode is a batch of one.

Shapes: S sessions, R sessions that act now, W width of a condition, F parameters of the action head, M length of a
legal-action mask; *action are the axes of one action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_transformer.conditions.interface import Target, value_after
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import PolicyModel
from rl_transformer.models.decision_transformer import DecisionTransformerModel
from rl_transformer.models.return_model import ReturnModel, select_return
from rl_transformer.models.trunk.kv_cache import KVCache
from rl_transformer.models.trunk.reproducible_sums import repeat_to_min_rows
from rl_transformer.policy.history import FrameStack, History
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.policy.validation import check_finite_actions, check_outcomes, check_rows, legal_action_mask
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Bool, Float, Float64, Int, Shaped
from rl_transformer.runtime.types import Nested
from rl_transformer.windows.normalization import Normalizer


class ActingPolicy(Protocol):
    """The part of a policy that sessions use."""

    spec: PolicySpec
    model: PolicyModel
    normalizer: Normalizer
    return_model: ReturnModel | None

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        ...

    def initial_conditions(
        self, target_return: float | None, targets: Mapping[str, Target] | None = None
    ) -> dict[str, Float[np.ndarray, "_"]]:
        """Return every condition's value at an episode's first step."""
        ...


class SessionBatch:
    """S live episodes that act together; each sees only its own history.

    Sessions with histories of equal length are computed in one forward pass over exactly that many
    steps, so that an action does not depend on who acts beside it. With sliding-window attention only
    the newest timestep is computed, from a KV cache.
    """

    def __init__(
        self,
        policy: ActingPolicy,
        target_returns: Sequence[float | None],
        seeds: Sequence[int],
        *,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        spec = policy.spec
        count = len(target_returns)
        self.policy = policy
        self._targets = targets
        self._device = policy.device
        uses_cache = spec.model.attention_span is not None
        self._cache = KVCache(spec.model, count, self._device) if uses_cache else None
        # With a cache only the newest timestep and the action before it are read again.
        self._history = History(spec, count, 2 if uses_cache else spec.context_length, self._device)
        observation = spec.data.observation_space.flat_shape
        self._frames = FrameStack(count, spec.frame_stack, observation) if len(observation) == 3 else None
        self.step: Int[np.ndarray, "S"] = np.zeros(count, dtype=np.int64)
        """Timestep of each session's next action."""
        # In float64: thousands of rewards are subtracted one after the other, and rounding errors would add up.
        self.conditions: dict[str, Float64[np.ndarray, "S W"]] = {
            condition.name: np.zeros((count, condition.width)) for condition in spec.conditions
        }
        """The present value of each condition, in the data's units."""
        self._awaits_outcome = np.zeros(count, dtype=bool)
        self._random: list[np.random.Generator] = [np.random.default_rng()] * count
        self.reset(range(count), target_returns, seeds)

    def reset(self, rows: Sequence[int], target_returns: Sequence[float | None], seeds: Sequence[int]) -> None:
        """Begin new episodes in the sessions ``rows``."""
        for row, target, seed in zip(rows, target_returns, seeds, strict=True):
            for name, value in self.policy.initial_conditions(target, self._targets).items():
                self.conditions[name][row] = value
            self.step[row] = 0
            self._awaits_outcome[row] = False
            self._random[row] = generator(Stream.ACTION_SAMPLING, seed)
        if self._cache is not None:
            self._cache.reset(np.asarray(rows))

    @property
    def return_to_go(self) -> Float64[np.ndarray, "S"]:
        """Return the return that each session still aims for, in the environment's units.

        Raises:
            RLTransformerError: The policy is not conditioned on a return.
        """
        if "return_to_go" not in self.conditions:
            raise RLTransformerError(
                "this policy is not conditioned on a return", where="return_to_go", fix="read session.conditions"
            )
        return self.conditions["return_to_go"][:, 0]

    @torch.inference_mode()
    def act(
        self,
        rows: Sequence[int] | np.ndarray,
        observations: Nested,
        allowed: ArrayLike | tuple[ArrayLike, ...] | None = None,
    ) -> Shaped[np.ndarray, "R ..."]:
        """Return an action in the environment's units for each of ``rows``.

        Args:
            rows: Sessions that act now.
            observations: One observation for each of them, along a leading axis R; nested like the observation space.
            allowed: (R, M) booleans, True at legal discrete actions. For multi-discrete actions the parts' masks one
                after the other, or a tuple with one (R, n) mask per part.
        """
        rows = check_rows(rows, len(self.step))
        if self._awaits_outcome[rows].any():
            raise RLTransformerError(
                f"session {int(rows[self._awaits_outcome[rows]][0])} acts twice in a row",
                where="act",
                fix="call observe(reward) after every action",
            )
        mask = legal_action_mask(allowed, len(rows), self.policy.spec, self.policy.model.predict_action, self._device)
        self._write_observations(rows, observations)
        actions = self._choose(rows, self._parameters(rows), mask)
        self._awaits_outcome[rows] = True
        return self._record_actions(rows, actions)

    def observe(
        self, rows: Sequence[int] | np.ndarray, rewards: Sequence[float] | np.ndarray, **outcomes: ArrayLike
    ) -> None:
        """Report the outcome of the last actions of the sessions ``rows``.

        Args:
            rows: Sessions that acted.
            rewards: The reward of each.
            outcomes: Further outcomes of each, by name, such as ``cost``, if a condition needs them.
        """
        rows = check_rows(rows, len(self.step))
        needed = {condition.outcome for condition in self.policy.spec.conditions} - {"reward"}
        reported = check_outcomes(rows, rewards, outcomes, needed)
        if not self._awaits_outcome[rows].all():
            raise RLTransformerError("a reward without an action", where="observe", fix="call act(observation) first")
        # Everything is checked before anything is written, so that a refused outcome leaves the sessions unchanged.
        following = {
            condition.name: value_after(condition, self.conditions[condition.name][rows], reported[condition.outcome])
            for condition in self.policy.spec.conditions
        }
        for condition in self.policy.spec.conditions:
            if not (np.abs(following[condition.name]) <= np.finfo(np.float32).max).all():
                raise RLTransformerError(
                    f"{condition.name} leaves the range of float32",
                    where="observe",
                    fix=f"repair the environment's {condition.outcome}",
                )
        for name, value in following.items():
            self.conditions[name][rows] = value
        self.step[rows] += 1
        self._awaits_outcome[rows] = False

    def _write_observations(self, rows: Int[np.ndarray, "R"], observations: Nested) -> None:
        """Write the newest timestep into the history: state, conditions and timestep."""
        spec = self.policy.spec
        flat = spec.data.observation_space.flatten(observations)
        if len(flat) != len(rows):
            raise RLTransformerError(
                f"{len(flat)} observations for {len(rows)} sessions", where="act", fix="pass one per session"
            )
        if flat.dtype.kind == "f" and not np.isfinite(flat).all():
            bad = np.argwhere(~np.isfinite(flat))[0]
            raise RLTransformerError(
                f"feature {bad[1]} of the observation is {flat[tuple(bad)]}",
                where="act",
                fix="repair the environment's observation",
            )
        recorded = torch.from_numpy(np.ascontiguousarray(flat))
        if self._frames is not None:
            recorded = self._frames.append(rows, recorded, self.step[rows] == 0)
        steps = self.step[rows]
        # As in the windows of training, timesteps beyond the table share its last row.
        timesteps = torch.from_numpy(np.minimum(steps, spec.model.max_ep_len - 1)).to(self._device)
        written = {"states": self.policy.normalizer.normalize(recorded.to(self._device)), "timesteps": timesteps}
        if spec.conditions:
            # Rounded first and divided then, as in the windows of training, for the same numbers to the bit.
            scaled = [
                self.conditions[condition.name][rows].astype(np.float32) / np.float32(condition.scale)
                for condition in spec.conditions
            ]
            written["conditions"] = torch.from_numpy(np.concatenate(scaled, axis=1)).to(self._device)
        self._history.put(rows, steps, **written)

    def _parameters(self, rows: Int[np.ndarray, "R"]) -> Float[Tensor, "R F"]:
        """Return the action head's parameters for ``rows``."""
        if self._cache is not None:
            return self._decode(rows, self._cache)
        lengths = np.minimum(self.step[rows] + 1, self.policy.spec.context_length)
        if (lengths == lengths[0]).all():
            return self._predict(rows, int(lengths[0]))
        # Windows of different lengths are computed separately rather than padded, because the sums over a longer window
        # would be rounded differently.
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        computed = torch.cat([self._predict(rows[group], int(lengths[group[0]])) for group in groups])
        return computed[torch.from_numpy(np.argsort(np.concatenate(groups)))]

    def _predict(self, rows: Int[np.ndarray, "R"], length: int) -> Float[Tensor, "R F"]:
        """Return the action head's parameters from windows of one length."""
        count = len(rows)
        rows = repeat_to_min_rows(rows, length)
        steps = self.step[rows][:, None] - np.arange(length - 1, -1, -1)  # oldest first
        inputs = self._history.take(rows, steps)
        # The targets become part of the history, which is therefore read again.
        if self.policy.spec.target == "generated":
            self._generate_targets(rows, inputs, length - 1)
            inputs = self._history.take(rows, steps)
        return self.policy.model.predict_actions(*inputs, at=length - 1)[:count]

    def _decode(self, rows: Int[np.ndarray, "R"], cache: KVCache) -> Float[Tensor, "R F"]:
        """Return the action head's parameters from the newest tokens and the cache."""
        model = self.policy.model
        assert isinstance(model, DecisionTransformerModel)
        count = len(rows)
        rows = repeat_to_min_rows(rows, 2)
        steps = self.step[rows]
        cache.begin(rows, steps)
        inputs = self._history.take(rows, steps[:, None] - [1, 0])
        return model.predict_next_action(*inputs, cache=cache)[:count]

    def _generate_targets(self, rows: Int[np.ndarray, "R"], inputs: tuple[Tensor, ...], newest: int) -> None:
        """Set the return-to-go of ``rows`` to the one that the return model chooses now, at timestep ``newest``."""
        spec = self.policy.spec
        model = self.policy.return_model
        assert model is not None
        states, actions, conditions, timesteps = inputs
        log_probabilities = model.before_action(states, actions, timesteps, at=newest)
        chosen = model.values[select_return(log_probabilities, spec.prior_exponent, spec.prior_floor)]
        self.conditions["return_to_go"][rows, 0] = chosen.double().cpu().numpy() * spec.returns.scale
        newest_conditions = conditions[:, newest].clone()
        names = [condition.name for condition in spec.conditions]
        column = sum(spec.model.widths[: names.index("return_to_go")])
        newest_conditions[:, column] = chosen
        self._history.put(rows, self.step[rows], conditions=newest_conditions)

    def _choose(
        self, rows: Int[np.ndarray, "R"], parameters: Float[Tensor, "R F"], allowed: Bool[Tensor, "R M"] | None
    ) -> Shaped[Tensor, "R *action"]:
        """Return greedy or sampled actions in the model's units."""
        head = self.policy.model.predict_action
        check_finite_actions(parameters, {name: value[rows] for name, value in self.conditions.items()})
        if self.policy.spec.action_selection == "greedy":
            return head.greedy(parameters, allowed)
        # Every session has a generator of its own, so its draws do not depend on who else acts.
        uniforms = torch.from_numpy(np.stack([self._random[row].random(head.num_uniforms) for row in rows]))
        return head.sample(parameters, uniforms.to(parameters.device), allowed)

    def _record_actions(
        self, rows: Int[np.ndarray, "R"], actions: Shaped[Tensor, "R *action"]
    ) -> Shaped[np.ndarray, "R ..."]:
        """Write actions into the history, and return them in the environment's units."""
        space = self.policy.spec.data.action_space
        if not space.is_continuous:
            self._history.put(rows, self.step[rows], actions=actions)
            return space.decode_actions(actions.cpu().numpy())
        normalizer = self.policy.normalizer
        dtype = np.dtype(space.dtype)
        recorded = normalizer.to_env_actions(actions)
        recorded = torch.round(recorded) if dtype.kind in "iu" else recorded
        # The history holds what is executed, as the logged data does: after clipping and rounding.
        self._history.put(rows, self.step[rows], actions=normalizer.to_model_actions(recorded))
        return space.decode_actions(recorded.cpu().numpy()).astype(dtype)
