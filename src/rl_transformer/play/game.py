"""One episode that a person watches: an environment, a session, and what the page shows of both."""

from __future__ import annotations

import base64
import io

import numpy as np

from rl_transformer.environments.live import LiveEnvironment
from rl_transformer.environments.sources import EnvironmentSource
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation.attention import session_attention
from rl_transformer.evaluation.step_limit import step_limit
from rl_transformer.policy import Policy
from rl_transformer.policy.session import PolicySession
from rl_transformer.runtime.types import JsonObject, Nested

_SHOWN_NUMBERS = 32  # of an observation or action; more could not be read


class Game:
    """Steps one environment with one policy; every method returns what the page shows, as JSON-ready values.

    Args:
        policy: The policy that acts.
        environment: Its environment, whose ``render()`` returns images if it can draw itself.
        max_steps: Steps after which an episode is cut off; None: see `step_limit`.
    """

    def __init__(self, policy: Policy, environment: LiveEnvironment, max_steps: int | None = None) -> None:
        environment.match_policy(policy.spec.data)
        made = environment.environment
        self._draws = made.render_mode == "rgb_array" and "rgb_array" in made.metadata.get("render_modes", ())
        self._limit = step_limit(environment, policy.spec, max_steps)
        self._policy = policy
        self._environment = environment
        self._session: PolicySession | None = None
        self._observation: Nested = None
        self._steps = 0
        self._achieved = 0.0
        self._is_over = True

    @classmethod
    def of(cls, policy: Policy, source: EnvironmentSource, max_steps: int | None = None) -> Game:
        """Return a game in a new environment, which draws itself if it can.

        Raises:
            RLTransformerError: The environment cannot be made, or does not fit the policy.
        """
        try:
            environment = source.open(render=True)
        except RLTransformerError:
            # Not every environment can draw. One that cannot be made at all raises again here.
            environment = source.open()
        return cls(policy, environment, max_steps)

    @property
    def unwrapped(self) -> object:
        """The environment inside of all wrappers."""
        return self._environment.environment.unwrapped

    def describe(self) -> JsonObject:
        """Return what does not change: names, and the targets that the slider offers."""
        spec = self._policy.spec
        # A policy that is conditioned on no return has no range; its slider is hidden.
        low, high = spec.target_ranges.get("return_to_go", (0.0, 1.0))
        advice = self._policy.target_table()
        return {
            "environment": self._environment.name,
            "policy": self._policy.content_hash,
            "text": repr(self._policy),
            "takes_target": spec.takes_target,
            "targets": list(spec.suggested_targets),
            "default_target": None if advice is None else advice.advised,
            "low": low,
            "high": high,
            "max_steps": spec.longest_episode or 1000,
            "has_attention": spec.arch == "decision_transformer" and spec.model.attention_span is None,
        }

    def begin(self, target_return: float | None, seed: int) -> JsonObject:
        """Begin an episode.

        Raises:
            RLTransformerError: The target is not one that the policy takes, or the environment fails.
        """
        self._session = self._policy.session(target_return, seed=seed)
        self._observation = self._environment.reset(seed)
        self._steps = 0
        self._achieved = 0.0
        self._is_over = False
        return self._shown(action=None, reward=None, attention=None)

    def step(self) -> JsonObject:
        """Let the policy act once.

        Raises:
            RLTransformerError: No episode has begun or it is over, or the environment fails.
        """
        if self._session is None or self._is_over:
            raise RLTransformerError("no episode is running", where="step", fix="begin one with Reset")
        # Before the outcome is observed: afterwards the window belongs to the next step.
        action = self._session.act(self._observation, self._environment.allowed())
        attention = session_attention(self._policy, self._session)
        outcome = self._environment.step(action)
        self._session.observe(outcome.reward)
        self._observation = outcome.observation
        self._steps += 1
        self._achieved += outcome.reward
        self._is_over = outcome.terminated or outcome.truncated or self._steps == self._limit
        return self._shown(action=action, reward=outcome.reward, attention=attention)

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    def _shown(self, *, action: Nested, reward: float | None, attention: JsonObject | None) -> JsonObject:
        session = self._session
        return {
            "step": self._steps,
            "frame": self._frame(),
            "observation": _numbers(self._observation),
            "action": _numbers(action),
            "reward": reward,
            "achieved": self._achieved,
            "return_to_go": session.return_to_go if session is not None and self._policy.spec.reads_return else None,
            "over": self._is_over,
            "attention": attention,
        }

    def _frame(self) -> str | None:
        """Return the picture of the environment as a data: URL; None if it draws none."""
        if not self._draws:
            return None
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(self._environment.render()).save(content, format="PNG")
        return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _numbers(values: Nested) -> list[float] | None:
    """Return the first numbers of an observation or action; None for parts by name, images and nothing."""
    if values is None or isinstance(values, dict | tuple):
        return None
    flat = np.asarray(values, np.float64).ravel()
    return flat.tolist() if len(flat) <= _SHOWN_NUMBERS else None
