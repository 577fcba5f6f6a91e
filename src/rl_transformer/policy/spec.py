"""The spec of a policy: everything but its weights and statistics, as the plain data of policy.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rl_transformer.conditions import Condition, ReturnToGo, conditions_from_dicts
from rl_transformer.config.migrations import migrate_policy
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import ARCHS, DecisionTransformerConfig
from rl_transformer.models.embeddings import ENCODERS
from rl_transformer.models.heads import HEADS
from rl_transformer.models.return_model import ReturnModel
from rl_transformer.models.trunk.interface import TRUNKS
from rl_transformer.policy.advice import TargetAdvice
from rl_transformer.runtime.plugins import refuse_named_plugins
from rl_transformer.runtime.reading import check_format
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.data_spec import DataSpec

# 2: return models; 3: a list of conditions; 4: return quantiles, longest episode; 5: kinds of return, advice on targets
FORMAT_VERSION = 5
_FIX = "the file was edited by hand or is damaged: restore it from a copy"


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """The spaces, units and rules of a policy."""

    arch: str
    """decision_transformer or behavior_cloning."""
    model: DecisionTransformerConfig
    data: DataSpec
    """Spaces of the training data, and its source."""
    context_length: int
    """Number of timesteps that a prediction may see."""
    frame_stack: int = 1
    """Images per state."""
    conditions: tuple[Condition, ...] = ()
    """The conditions that the model reads at every timestep, in its order; empty for behavior cloning."""
    returns: ReturnToGo = field(default_factory=ReturnToGo)
    """The definition of a return, for conditions and the return model alike."""
    action_selection: str = "greedy"
    """greedy: the best action; sample: a draw from the action head's distribution."""
    target: str = "given"
    """given: the caller sets the target return; generated: the return model chooses one at every timestep."""
    prior_exponent: float = 10.0
    """Weight of good returns in generated targets: the exponent of the prior."""
    prior_floor: float = 0.001
    """Returns less likely than this are never generated."""
    return_bins: tuple[float, float, int] | None = None
    """The smallest value (scaled), the largest one, and the number of values of the return model, if there is one."""
    timestep_rule: str = "hold"
    """hold: timesteps beyond the timestep table reuse its last row, as in training windows."""
    suggested_targets: tuple[float, ...] = ()
    """Target returns to try: the quartiles and the maximum of the training data, in the unit of ``returns``."""
    target_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The smallest and largest value of each condition at the first step of a training episode; of a return that belongs to
    steps, at any step."""
    return_quantiles: tuple[float, ...] | None = None
    """The 0, 1, ..., 100 % quantiles of the returns of the training episodes, or steps; None if they are not known."""
    advice: TargetAdvice | None = None
    """Which target to aim for; None if the policy takes none, or its format did not record it."""
    longest_episode: int | None = None
    """Timesteps of the longest training episode; None in policies of formats that did not record it."""
    dataset: JsonMapping = field(default_factory=dict)
    """Fingerprint and size of the training data."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that trained the policy."""

    @property
    def reads_return(self) -> bool:
        """Return True if the return-to-go is one of the conditions."""
        return any(condition.name == "return_to_go" for condition in self.conditions)

    @property
    def takes_target(self) -> bool:
        """Return True if the caller sets a target return."""
        return self.reads_return and self.target == "given"

    def build_return_model(self) -> ReturnModel | None:
        """Return a return model with new weights, or None if this policy has none."""
        if self.return_bins is None:
            return None
        low, high, count = self.return_bins
        return ReturnModel(self.model, low=low, high=high, num_bins=count)

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("model", "data", "returns"):
            values[name] = values[name].to_dict()
        values["conditions"] = [condition.to_dict() for condition in self.conditions]
        values["suggested_targets"] = list(self.suggested_targets)
        values["advice"] = None if self.advice is None else self.advice.to_dict()
        values["return_quantiles"] = None if self.return_quantiles is None else list(self.return_quantiles)
        values["target_ranges"] = {name: list(pair) for name, pair in self.target_ranges.items()}
        return {"format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object) -> PolicySpec:
        """Rebuild a spec from the values of `to_dict`, of this or an earlier version.

        Raises:
            RLTransformerError: The format is a later one, a field is missing, unknown or malformed, or a part (action
                head, encoder, trunk, condition) is not registered here.
        """
        # A policy may come from anywhere, so nothing in it is imported, and nothing in it is believed unchecked.
        check_format(values, FORMAT_VERSION, where=where)
        refuse_named_plugins(values, where=where)
        try:
            current = dict(values) if values["format_version"] == FORMAT_VERSION else migrate_policy(values)
            current.pop("format_version")
            _check_names(current, where)
            spec = cls(**{name: _parse(name, value, where) for name, value in current.items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RLTransformerError(f"a field is missing or malformed: {error}", where=where, fix=_FIX) from None
        _check_values(spec, where)
        _check_registered(spec.model, where)
        return spec


def _parse(name: str, value: Any, where: object) -> Any:
    """Return a value of policy.json as the type of its field in `PolicySpec`."""
    parsers: dict[str, Callable[[Any], Any]] = {
        "model": lambda v: DecisionTransformerConfig.from_dict(v, where=where),
        "data": lambda v: DataSpec.from_dict(v, where=where),
        "conditions": lambda v: conditions_from_dicts(v, where=where),
        "returns": ReturnToGo.from_dict,
        "context_length": int,
        "frame_stack": int,
        "prior_exponent": float,
        "prior_floor": float,
        "return_bins": _parse_bins,
        "suggested_targets": lambda v: tuple(float(target) for target in v),
        "target_ranges": lambda v: {str(key): _parse_pair(pair) for key, pair in v.items()},
        "return_quantiles": _parse_quantiles,
        "advice": lambda v: None if v is None else TargetAdvice.from_dict(v),
        "longest_episode": lambda v: None if v is None else int(v),
        "dataset": dict,
        "versions": dict,
    }
    return parsers[name](value) if name in parsers else value


def _check_names(values: JsonMapping, where: object) -> None:
    """Raise an error for unknown and missing fields: a default in place of a lost field could change the actions."""
    names = {item.name for item in fields(PolicySpec)}
    unknown = sorted(set(values) - names)
    missing = sorted(names - set(values))
    if unknown or missing:
        problem = f"unknown fields: {', '.join(unknown)}" if unknown else f"missing fields: {', '.join(missing)}"
        raise RLTransformerError(problem, where=where, fix=_FIX)


def _check_registered(model: DecisionTransformerConfig, where: object) -> None:
    """Raise an error if the head, encoder or trunk comes from a plugin that is not loaded."""
    HEADS.get(model.action_head, where=where)
    if model.state_encoder != "auto":
        ENCODERS.get(model.state_encoder, where=where)
    if model.trunk is None:
        TRUNKS.get(model.blocks, where=where)


def sizes_from_spaces(data: DataSpec, frame_stack: int) -> JsonObject:
    """Return the fields of `DecisionTransformerConfig` that follow from the spaces of the data."""
    observation = data.observation_space
    image = observation.image_shape
    return {
        "state_dim": 1 if observation.has_image else max(1, observation.flat_dim),
        "streams": observation.streams.shapes if observation.streams else (),
        "act_dim": data.action_space.flat_dim,
        "action_parts": data.action_space.nvec,
        "image_shape": (image[0] * frame_stack, *image[1:]) if image else None,
    }


def _check_values(spec: PolicySpec, where: object) -> None:
    """Raise an error for values that nothing else checks; the limits keep a hostile file from filling the memory."""
    is_valid = {
        "arch": spec.arch in ARCHS,
        "timestep_rule": spec.timestep_rule == "hold",
        "action_selection": spec.action_selection in ("greedy", "sample"),
        "target": spec.target == "given" or (spec.target == "generated" and spec.return_bins is not None),
        "context_length": 1 <= spec.context_length <= 100_000,
        "frame_stack": 1 <= spec.frame_stack <= 1_000,
        "longest_episode": spec.longest_episode is None or spec.longest_episode >= 1,
        "advice": spec.advice is None
        or (len(spec.advice.coefficients) in (0, spec.data.observation_space.flat_dim) and spec.takes_target),
        "conditions": tuple(condition.name for condition in spec.conditions) == tuple(spec.model.conditions),
    }
    invalid = [name for name, valid in is_valid.items() if not valid]
    for name, size in sizes_from_spaces(spec.data, spec.frame_stack).items():
        if getattr(spec.model, name) != size:
            invalid.append(f"model.{name} (the data's spaces make it {size})"[:200])
    if invalid:
        raise RLTransformerError(f"invalid values: {', '.join(invalid)}", where=where, fix=_FIX)


def _parse_pair(value: Any) -> tuple[float, float]:
    low, high = value  # a wrong number of values is an error here
    return float(low), float(high)


def _parse_bins(value: Any) -> tuple[float, float, int] | None:
    if value is None:
        return None
    low, high, count = value
    if not (float(low) < float(high) and 2 <= int(count) <= 100_000):
        raise ValueError(f"return_bins {value}")
    return float(low), float(high), int(count)


def _parse_quantiles(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    quantiles = tuple(float(number) for number in value)
    if len(quantiles) != 101 or not all(abs(number) < math.inf for number in quantiles):
        raise ValueError("return_quantiles are not 101 finite numbers")
    return quantiles
