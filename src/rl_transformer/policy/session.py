"""Live episodes: the only way a policy acts, for one episode or for many at once.

Shapes: S sessions, R rows that act now, K context_length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.decision_transformer import DecisionTransformerModel
from rl_transformer.models.gpt2 import SAME_SUMS_FROM
from rl_transformer.models.return_model import likely_and_good
from rl_transformer.models.stream import TokenStream
from rl_transformer.policy.history import History
from rl_transformer.trajectories.nested import stack

if TYPE_CHECKING:
    from rl_transformer.policy.policy import Policy


LARGEST_RETURN = float(np.finfo(np.float32).max)


class SessionBatch:
    """S live episodes that act together; each sees only its own history.

    Sessions whose histories are equally long are computed in one forward pass over exactly that
    many steps, so that an action does not depend on who acts beside it. With streaming attention only
    the newest timestep is computed.
    """

    def __init__(self, policy: Policy, targets: Sequence[float | None], seeds: Sequence[int]) -> None:
        self.policy, spec = policy, policy.spec
        count, observation = len(targets), spec.data.observation_space.flat_shape
        self._device = policy.device
        self._discrete = spec.data.action_space.kind == "discrete"
        streaming = spec.model.attention_span is not None
        self._stream = TokenStream(spec.model, count, self._device) if streaming else None
        self._history = History(policy, count, 2 if streaming else spec.context_length)
        self._frames = None
        if len(observation) == 3:
            self._frames = torch.zeros(count, spec.frame_stack, *observation, dtype=torch.uint8)
        self.step = np.zeros(count, dtype=np.int64)
        """Timestep of each session's next action."""
        self.return_to_go = np.zeros(count)
        """What each session still asks for, in the environment's units."""
        self._waiting = np.zeros(count, dtype=bool)
        self._random: list[np.random.Generator] = [np.random.default_rng()] * count
        self.reset(range(count), targets, seeds)

    def reset(self, rows: Sequence[int], targets: Sequence[float | None], seeds: Sequence[int]) -> None:
        """Begin new episodes in the sessions ``rows``."""
        for row, target, seed in zip(rows, targets, seeds, strict=True):
            self.return_to_go[row] = self.policy.target_or_default(target)
            self.step[row], self._waiting[row] = 0, False
            self._random[row] = np.random.default_rng([seed, 0xAC])
        if self._stream is not None:
            self._stream.reset(np.asarray(rows))

    @torch.inference_mode()
    def act(self, rows: Sequence[int] | np.ndarray, observations: Any, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return an action for each of ``rows``.

        Args:
            rows: Sessions that act now.
            observations: What each of them sees, with one leading axis (R, ...); nested as the
                observation space is.
            allowed: (R, num_actions) bool: the legal discrete actions.

        Returns:
            (R, *action shape) in the environment's units.
        """
        rows = self._rows(rows)
        if self._waiting[rows].any():
            raise RLTransformerError(
                f"session {int(rows[self._waiting[rows]][0])} acts twice in a row",
                where="act",
                fix="call observe(reward) after every action",
            )
        mask = self._allowed(allowed, len(rows))
        self._write(rows, observations)
        actions = self._choose(rows, self._parameters(rows), mask)
        self._waiting[rows] = True
        space = self.policy.spec.data.action_space
        if self._discrete:
            self._history.put(rows, self.step[rows], actions=actions)
            return actions.cpu().numpy() + space.start
        recorded = self.policy.scaling.recorded_actions(actions)
        dtype = np.dtype(space.dtype)
        recorded = torch.round(recorded) if dtype.kind in "iu" else recorded
        # The context holds what is done, as the logged data does: after clipping and rounding.
        self._history.put(rows, self.step[rows], actions=self.policy.scaling.actions(recorded))
        return recorded.cpu().numpy().reshape(len(rows), *space.shape).astype(dtype)

    def observe(self, rows: Sequence[int] | np.ndarray, rewards: Sequence[float] | np.ndarray) -> None:
        """Tell the sessions ``rows`` what their last action earned."""
        rows, rewards = self._rows(rows), np.asarray(rewards, np.float64)
        if rewards.shape != rows.shape:
            raise RLTransformerError(
                f"{rewards.shape} rewards for {len(rows)} sessions", where="observe", fix="pass one number a session"
            )
        if not self._waiting[rows].all():
            raise RLTransformerError("a reward without an action", where="observe", fix="call act(observation) first")
        if not np.isfinite(rewards).all():
            raise RLTransformerError(
                f"the reward {rewards[~np.isfinite(rewards)][0]} is not finite",
                where="observe",
                fix="repair the environment's reward",
            )
        asked = self.policy.spec.return_rule.after(self.return_to_go[rows], rewards)
        if not (np.abs(asked) <= LARGEST_RETURN).all():
            raise RLTransformerError(
                "what is left to ask for leaves the range of float32",
                where="observe",
                fix="repair the environment's reward",
            )
        self.return_to_go[rows] = asked
        self.step[rows] += 1
        self._waiting[rows] = False

    def _rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        array, count = np.asarray(rows, dtype=np.int64), len(self.step)
        named = array.tolist()
        if array.ndim != 1 or len(set(named)) < len(named) or (named and not 0 <= min(named) <= max(named) < count):
            raise RLTransformerError(
                f"{array.tolist()} are not different sessions of {count}",
                where="sessions",
                fix=f"name rows from 0 to {count - 1}, each once",
            )
        return array

    def _write(self, rows: np.ndarray, observations: Any) -> None:
        policy, spec, device = self.policy, self.policy.spec, self._device
        flat = spec.data.observation_space.flatten(observations)
        if len(flat) != len(rows):
            raise RLTransformerError(
                f"{len(flat)} observations for {len(rows)} sessions", where="act", fix="pass one a session"
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
            recorded = self._stack(rows, recorded)
        steps = self.step[rows]
        timesteps = torch.from_numpy(np.minimum(steps, spec.model.max_ep_len - 1)).to(device)
        states = policy.scaling.observations(recorded.to(device))
        seen = {"states": states, "timesteps": timesteps}
        if spec.conditioned:
            asked = self.return_to_go[rows].astype(np.float32) / np.float32(spec.return_rule.scale)
            seen["conditions"] = torch.from_numpy(asked[:, None]).to(device)
        self._history.put(rows, steps, **seen)

    def _stack(self, rows: np.ndarray, newest: Tensor) -> Tensor:
        """Put the newest image behind the last ones; the first image of an episode repeats."""
        frames = self._frames
        assert frames is not None
        first = torch.from_numpy(self.step[rows] == 0)
        shifted = torch.cat([frames[rows][:, 1:], newest[:, None]], dim=1)
        repeated = newest[:, None].expand_as(shifted)
        frames[rows] = torch.where(first.view(-1, *[1] * (shifted.dim() - 1)), repeated, shifted)
        return frames[rows].flatten(1, 2)

    def _parameters(self, rows: np.ndarray) -> Tensor:
        """Return the action head's parameters (R, ...) for ``rows``."""
        if self._stream is not None:
            return self._next(rows, self._stream)
        lengths = np.minimum(self.step[rows] + 1, self.policy.spec.context_length)
        if (lengths == lengths[0]).all():
            return self._predict(rows, int(lengths[0]))
        parts = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        computed = torch.cat([self._predict(rows[part], int(lengths[part[0]])) for part in parts])
        return computed[torch.from_numpy(np.argsort(np.concatenate(parts)))]

    def _predict(self, rows: np.ndarray, length: int) -> Tensor:
        count, rows = len(rows), _enough(rows, length)
        steps = self.step[rows][:, None] - np.arange(length - 1, -1, -1)  # oldest first
        inputs = self._history.take(rows, steps)
        if self.policy.spec.target == "generated":
            self._ask(rows, inputs, length - 1)
            inputs = self._history.take(rows, steps)
        return self.policy.model.predict_actions(*inputs, at=length - 1)[:count]

    def _next(self, rows: np.ndarray, stream: TokenStream) -> Tensor:
        count, rows, model = len(rows), _enough(rows, 2), self.policy.model
        assert isinstance(model, DecisionTransformerModel)
        steps = self.step[rows]
        stream.begin(rows, steps)
        inputs = self._history.take(rows, steps[:, None] - [1, 0])
        return model.predict_next(*inputs, stream=stream)[:count]

    def _choose(self, rows: np.ndarray, parameters: Tensor, allowed: Tensor | None) -> Tensor:
        head = self.policy.model.predict_action
        if not torch.isfinite(parameters).all():
            raise RLTransformerError(
                f"the model answers with numbers that are not finite (asked for {self.return_to_go[rows].tolist()[:5]})",
                where="act",
                fix="ask for a return nearer to those of the training data, and check the observation",
            )
        if self.policy.spec.action_selection == "greedy":
            return head.greedy(parameters, allowed)
        size = 1 if self._discrete else self.policy.spec.model.act_dim
        uniforms = torch.from_numpy(np.stack([self._random[row].random(size) for row in rows]))
        return head.sample(parameters, uniforms.to(parameters.device), allowed)

    def _ask(self, rows: np.ndarray, inputs: tuple[Tensor, ...], newest: int) -> None:
        """Let the model of returns name what the sessions ``rows`` ask for now."""
        spec, model = self.policy.spec, self.policy.return_model
        assert model is not None
        states, actions, _, timesteps = inputs
        belief = model.before_action(states, actions, timesteps, at=newest)
        chosen = model.values[likely_and_good(belief, spec.prior_exponent, spec.prior_floor)]
        self.return_to_go[rows] = chosen.double().cpu().numpy() * spec.return_rule.scale
        self._history.put(rows, self.step[rows], conditions=chosen[:, None])

    def _allowed(self, allowed: np.ndarray | None, count: int) -> Tensor | None:
        if allowed is None:
            return None
        mask = np.asarray(allowed, dtype=bool)
        wanted = (count, self.policy.spec.model.act_dim)
        if not self._discrete or mask.shape != wanted or not mask.any(axis=1).all():
            raise RLTransformerError(
                f"allowed has shape {mask.shape}, or forbids every action, or the actions are not discrete",
                where="act",
                fix=f"pass booleans of shape {wanted}, at least one of them True, for discrete actions",
            )
        return torch.from_numpy(mask).to(self._device)


def _enough(rows: np.ndarray, length: int) -> np.ndarray:
    """Return ``rows``, repeated if their windows hold too few timesteps: see `SAME_SUMS_FROM`."""
    return np.tile(rows, -(-SAME_SUMS_FROM // (len(rows) * length)))


class PolicySession:
    """One live episode: ``act`` on what is seen, then ``observe`` what it earned, and so on."""

    def __init__(self, policy: Policy, target_return: float | None, seed: int) -> None:
        self._batch = SessionBatch(policy, [target_return], [seed])

    @property
    def return_to_go(self) -> float:
        """What the session still asks for."""
        return float(self._batch.return_to_go[0])

    def act(self, observation: Any, allowed: np.ndarray | None = None) -> Any:
        """Return the action for one observation, in the environment's units.

        Args:
            observation: What the environment returned, not normalized.
            allowed: (num_actions,) bool: the legal discrete actions.

        Raises:
            RLTransformerError: A wrong shape, a number that is not finite, or no `observe` since the last action.
        """
        return self._batch.act([0], stack([observation]), None if allowed is None else np.asarray(allowed)[None])[0]

    def observe(self, reward: float) -> None:
        """Tell the session what its last action earned."""
        self._batch.observe([0], [reward])
