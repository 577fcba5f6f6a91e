"""Run environments that others wrote: what they return is checked, and what they raise is reported as their fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rl_transformer.environments.legal_actions import legal_actions
from rl_transformer.environments.making import matched_spaces
from rl_transformer.environments.packages import install_command
from rl_transformer.environments.returned_values import as_number, copied, described, message, misfit
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.time_limit import TimeIsUp, TimeLimit
from rl_transformer.runtime.types import JsonMapping, Nested
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.images import with_layout

if TYPE_CHECKING:
    import gymnasium

_TRACEBACK = "calling rl_transformer.evaluate from Python shows the traceback"
_NEW_API = (
    "let step() return (observation, reward, terminated, truncated, info) and reset(seed=..., options=...) return "
    "(observation, info); for an environment of the old gym API pip install 'shimmy[gym-v21]' and pass "
    "gymnasium.make('GymV21Environment-v0', env=ENVIRONMENT)"
)


class Step(NamedTuple):
    """The outcome of one action."""

    observation: Nested
    reward: float
    terminated: bool
    truncated: bool


class LiveEnvironment:
    """An environment whose results are checked; exceptions of its code become an `RLTransformerError` that names it.

    Args:
        environment: The environment.
        name: Its name for messages and reports.
        spec: Its spaces.
        is_ours: Close the environment in `close`; False for one that the caller made.
        step_timeout: Seconds that one ``step()`` or ``reset()`` may take; None: no limit.

    Raises:
        RLTransformerError: The limit is not above 0, or there can be none here.
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        name: str,
        spec: DataSpec,
        *,
        is_ours: bool = True,
        step_timeout: float | None = None,
    ) -> None:
        self.environment = environment
        self.name = name
        self.spec = spec
        self._own_space = spec.observation_space  # self.spec's may be that of a policy, see match_policy
        self._is_ours = is_ours
        self._step_timeout = step_timeout
        self._limit = TimeLimit(step_timeout, name="step_timeout")
        self._find_masks = _mask_function(environment)
        self._info: JsonMapping = {}

    def another(self, environment: gymnasium.Env) -> LiveEnvironment:
        """Return a further environment of the same source, which matches what this one does."""
        made = LiveEnvironment(
            environment, self.name, self.spec, is_ours=self._is_ours, step_timeout=self._step_timeout
        )
        made._own_space = self._own_space
        return made

    def match_policy(self, trained: DataSpec) -> None:
        """Check that the spaces are those of a policy's data, and leave out the parts that the policy ignores.

        Images may have their channels on another axis than in the data; observations are then returned as the data has them.

        Raises:
            RLTransformerError: A space differs.
        """
        self.spec = matched_spaces(self.spec, trained, self.name)
        self._own_space = self.spec.observation_space
        if self._own_space.is_image and not self._own_space.parts and not trained.observation_space.parts:
            shaped = replace(self._own_space, shape=trained.observation_space.shape)
            self.spec = replace(self.spec, observation_space=shaped)

    @property
    def has_time_limit(self) -> bool:
        """True if one of the environment's wrappers ends episodes after a number of steps."""
        # The registered limit does not count: an environment without its wrappers keeps the spec that names it.
        layer: Any = self.environment
        while layer is not None:
            if any(kind.__name__ == "TimeLimit" for kind in type(layer).__mro__):
                return True
            layer = getattr(layer, "env", None)
        return False

    def reset(self, seed: int) -> Nested:
        """Begin an episode and return its first observation.

        Raises:
            RLTransformerError: The environment raises an exception, takes too long, or does not return (observation, info).
        """
        try:
            result = self._limit.call(lambda: self.environment.reset(seed=seed))
        except (Exception, SystemExit, TimeIsUp) as error:
            raise self._fault("reset()", error) from error
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping | None)):
            raise self._wrong(f"its reset() returns {described(result)} and not (observation, info)", _NEW_API)
        observation, info = result
        self._info = info or {}
        return self._checked_copy(observation)

    def step(self, action: Nested) -> Step:
        """Execute an action in the environment's units.

        Raises:
            RLTransformerError: The environment raises an exception, takes too long, or returns something else than an observation of
                its space, a finite reward, two ends and an info.
        """
        try:
            result = self._limit.call(lambda: self.environment.step(action))
        except (Exception, SystemExit, TimeIsUp) as error:
            raise self._fault("step()", error) from error
        if not (isinstance(result, tuple) and len(result) == 5):
            raise self._wrong(f"its step() returns {described(result)} and not five values", _NEW_API)
        observation, reward, terminated, truncated, info = result
        number = self._number("reward", reward)
        if not math.isfinite(number):
            raise self._wrong(f"its reward {number} is not finite", "repair the environment's reward")
        self._info = info if isinstance(info, Mapping) else {}
        ends = (self._flag("terminated", terminated), self._flag("truncated", truncated))
        return Step(self._checked_copy(observation), number, *ends)

    def outcome(self, name: str) -> float:
        """Return the outcome ``name`` of the last action, which a condition of the policy needs, from ``info``.

        Raises:
            RLTransformerError: The environment does not report it, or it is not one number.
        """
        if name not in self._info:
            reported = sorted(map(str, self._info)) or "nothing"
            raise self._wrong(
                f"a condition of this policy needs the {name} of every action, and info has {reported}",
                f"use an environment (or a wrapper) whose step() returns info[{name!r}]",
            )
        return self._number(name, self._info[name])

    def allowed(self) -> np.ndarray | None:
        """Return the legal values of the next discrete action, see `legal_actions`; None: every value.

        The environment reports them in ``info["action_mask"]``, or by a method ``action_masks()``.

        Raises:
            RLTransformerError: The mask has a wrong shape, or forbids every action.
        """
        if self.spec.action_space.is_continuous:
            return None
        mask = self._info.get("action_mask")
        if mask is None and self._find_masks is not None:
            try:
                mask = self._find_masks()
            except (Exception, SystemExit) as error:
                raise self._fault("action_masks()", error) from error
        return None if mask is None else legal_actions(mask, self.spec.action_space, where=self.name)

    def render(self) -> np.ndarray:
        """Return the present image, (height, width, 3) uint8.

        Raises:
            RLTransformerError: The environment cannot render, or returns something else than an image.
        """
        fix = "leave the recording out, or pass an environment made with render_mode='rgb_array'"
        try:
            image = np.asarray(self.environment.render())
        except (Exception, SystemExit) as error:
            command = install_command(str(error))
            raise self._wrong(f"cannot render: {message(error)}", command or fix) from error
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            found = "None" if image.dtype == object else f"an array of shape {image.shape} and {image.dtype}"
            raise self._wrong(f"cannot render: its render() returns {found} and not an image", fix)
        return image

    def close(self) -> None:
        """Close the environment if it was made here."""
        if not self._is_ours:
            return
        # By now the episodes are finished; a fault here must not cost their results.
        try:
            self._limit.call(self.environment.close)
        except (Exception, SystemExit, TimeIsUp) as error:
            log.info(f"note: {self.name}: its close() raised {message(error)}")

    def _checked_copy(self, observation: Nested) -> Nested:
        """Return a copy of an observation, because an environment may write the next one into the same array."""
        problem = misfit(observation, self._own_space, "")
        if problem:
            fix = "repair the environment: its observations and its observation_space must agree"
            raise self._wrong(f"its observation{problem}", fix)
        wanted = self.spec.observation_space.shape
        if self._own_space.is_image and self._own_space.shape != wanted:
            return with_layout(np.asarray(observation), wanted)
        return copied(observation)

    def _number(self, name: str, value: Any) -> float:
        """Return a number, or the one number in an array of size 1, as a float."""
        try:
            return as_number(value)
        except (TypeError, ValueError, RuntimeError):
            agents = isinstance(value, Mapping)
            fix = _ONE_AGENT if agents else f"let step() return one number as the {name}"
            raise self._wrong(f"its {name} is {described(value)} and not one number", fix) from None

    def _flag(self, name: str, value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        number = self._number(name, value)
        if number not in (0, 1):
            raise self._wrong(f"its {name} is {number:g}", "let step() return True or False for it")
        return bool(number)

    def _fault(self, method: str, error: BaseException) -> RLTransformerError:
        """Return the error for an exception that the environment raised in one of its methods."""
        if isinstance(error, RLTransformerError):
            return error
        if isinstance(error, TimeIsUp):
            problem = f"its {method} takes more than {self._step_timeout:g} seconds, the limit that step_timeout sets"
            return self._wrong(problem, "repair the environment, or set a higher limit")
        problem = f"its {method} raised {message(error)}"
        # Wrappers of gymnasium unpack five values, so an environment of the old API fails inside of them.
        is_old = isinstance(error, ValueError) and "expected 5, got 4" in str(error)
        takes_no_seed = isinstance(error, TypeError) and "unexpected keyword argument 'seed'" in str(error)
        if is_old or takes_no_seed:
            return self._wrong(f"{problem}; that is the old gym API", _NEW_API)
        return self._wrong(problem, f"repair the environment, or report this to its authors; {_TRACEBACK}")

    def _wrong(self, problem: str, fix: str) -> RLTransformerError:
        return RLTransformerError(problem, where=self.name, fix=fix)


_ONE_AGENT = (
    "pass an environment of one agent: a gymnasium.Env around this one that returns the values of the agent that the "
    "policy controls"
)


def refuse_other_apis(environment: object, name: str) -> None:
    """Check that an object is one gymnasium environment, and not several or one of another library.

    Raises:
        RLTransformerError: It is an environment of several agents, a vector of environments, or no environment.
    """
    if hasattr(environment, "possible_agents"):
        raise RLTransformerError("is a PettingZoo environment of several agents", where=name, fix=_ONE_AGENT)
    if hasattr(environment, "num_envs") and hasattr(environment, "single_action_space"):
        raise RLTransformerError(
            f"is a vector of {environment.num_envs} environments",  # pyright: ignore[reportAttributeAccessIssue]
            where=name,
            fix="pass an id, one environment, or a function that makes one; several of them run together anyway",
        )
    missing = [
        member for member in ("reset", "step", "observation_space", "action_space") if not hasattr(environment, member)
    ]
    if missing:
        raise RLTransformerError(
            f"is a {type(environment).__name__} without {', '.join(missing)}",
            where=name,
            fix="pass a gymnasium id, a gymnasium.Env, or a function without arguments that returns one",
        )


def _mask_function(environment: gymnasium.Env) -> Callable[[], Any] | None:
    """Return the method ``action_masks`` of the environment, or of one of the environments that it wraps."""
    layer: Any = environment
    while layer is not None:
        method = getattr(layer, "action_masks", None)
        if callable(method):
            return method
        layer = getattr(layer, "env", None)
    return None
