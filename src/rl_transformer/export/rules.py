"""What a client must know beside the network: the rules of an exported policy, as the plain data of its policy.json."""

from __future__ import annotations

import numpy as np

from rl_transformer.conditions import Condition, ReturnToGo
from rl_transformer.conditions.cost_to_go import CostToGo
from rl_transformer.errors import RLTransformerError
from rl_transformer.export.interface import window_ports
from rl_transformer.policy import Policy
from rl_transformer.policy.actions import limits_in_dtype
from rl_transformer.policy.history import column_formats
from rl_transformer.policy.targets import usual_target
from rl_transformer.runtime.machine import versions
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.images import image_axes
from rl_transformer.trajectories.spaces import Space

FORMAT = "rl_transformer export"
FORMAT_VERSION = 1
TOLERANCE = 1e-5
_LARGEST_INTEGER = 2**53  # beyond it float64, in which actions are rounded, has gaps
_ACT_IN_PYTHON = "act in Python, rl_transformer.load_policy(RUN).session()"


def check_exportable(policy: Policy) -> None:
    """Raise an error that names the part of a policy that cannot be exported.

    Raises:
        RLTransformerError: A part has no counterpart in the exported files or in their clients.
    """
    spec = policy.spec
    space = spec.data.action_space
    samples = spec.action_selection == "sample" and spec.model.action_head == "gaussian"
    others = [condition.name for condition in spec.conditions if not isinstance(condition, ReturnToGo | CostToGo)]
    is_integer = space.is_continuous and np.dtype(space.dtype).kind not in "fb"
    problems = {
        "the transformer of another library (model.trunk)": (spec.model.trunk is not None, _ACT_IN_PYTHON),
        f"the condition {', '.join(others)} of a plugin": (bool(others), _ACT_IN_PYTHON),
        "samples of the gaussian head": (samples, "export its best action instead: --action-selection greedy"),
        "images combined with numbers in one observation": (
            spec.data.observation_space.streams is not None,
            f"{_ACT_IN_PYTHON}, or train on one of them: --dataset.observe NAME",
        ),
        "a return that is discounted while acting": (
            spec.takes_target and spec.returns.depends_on_delay,
            f"{_ACT_IN_PYTHON}, or train with --returns.update keep",
        ),
        "integer actions without bounds": (
            is_integer and any(np.abs(side.astype(float)).max() > _LARGEST_INTEGER for side in limits_in_dtype(space)),
            _ACT_IN_PYTHON,
        ),
    }
    for part, (is_present, fix) in problems.items():
        if is_present:
            raise RLTransformerError(f"{part} cannot be exported", where="export", fix=fix)


def describe(policy: Policy) -> JsonObject:
    """Return the rules, as values that JSON can hold; the files and the golden steps are added by `write`."""
    spec = policy.spec
    suggested = list(spec.suggested_targets)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "policy": policy.content_hash,
        "arch": spec.arch,
        "source": spec.data.source,
        "env_id": spec.data.env_id,
        "dataset": dict(spec.dataset),
        "versions": versions("onnx", "onnxscript", "onnxruntime"),
        "observation": _describe_observation(policy),
        "action": _describe_action(policy),
        "context_length": spec.context_length,
        "window_length": window_length(policy),
        "timestep_rule": spec.timestep_rule,
        "timestep_rows": spec.model.max_ep_len,
        "conditions": [_describe_condition(condition) for condition in spec.conditions],
        "return": {key: value for key, value in spec.returns.to_dict().items() if key != "name"},
        "target": spec.target,
        "default_target": usual_target(spec),
        "suggested_targets": suggested,
        "target_ranges": {name: list(pair) for name, pair in spec.target_ranges.items()},
        "longest_episode": spec.longest_episode,
        "action_selection": spec.action_selection,
    }


def window_length(policy: Policy) -> int:
    """Return the number of timesteps from which an action follows exactly."""
    spec = policy.spec
    if spec.model.attention_span is None:
        return spec.context_length
    # Each layer sees that many timesteps, and in them the layer before has seen as many again.
    return spec.model.n_layer * (spec.model.attention_span - 1) + 1


def action_tolerance(policy: Policy) -> float:
    """Return the tolerance for rounding errors when two actions are compared, in the environment's units."""
    space = policy.spec.data.action_space
    if not space.is_continuous or np.dtype(space.dtype).kind != "f":
        return 0.0
    low, high = space.bounds
    half = (high.astype(float) - low) / 2
    return TOLERANCE * max(1.0, float(half[np.isfinite(half)].max(initial=1.0)))


def _describe_observation(policy: Policy) -> JsonObject:
    space = policy.spec.data.observation_space
    picture = _leaf(space)
    return {
        "space": space.to_dict(),
        "flat_shape": list(space.flat_shape),
        "dtype": str(space.flat_dtype),
        "image_axes": list(image_axes(picture.shape) or ()) if space.is_image else None,
        "frame_stack": policy.spec.frame_stack,
    }


def _leaf(space: Space) -> Space:
    return _leaf(space.parts[0][1]) if len(space.parts) == 1 else space


def _describe_action(policy: Policy) -> JsonObject:
    space = policy.spec.data.action_space
    shape, dtype = column_formats(policy.spec)["actions"]
    first = 0.0 if space.is_continuous else np.asarray(space.first_values).tolist()
    outputs = {port.name: port for port in window_ports(policy)[1]}
    return {
        "space": space.to_dict(),
        "shape": list(shape),
        "input_dtype": str(dtype).removeprefix("torch."),
        "dtype": outputs["action"].dtype,
        "first": first,
        "head": policy.spec.model.action_head,
        "parts": list(policy.spec.model.action_parts),
    }


def _describe_condition(condition: Condition) -> JsonObject:
    """Return how a condition changes with the outcomes of an episode."""
    returns = condition if isinstance(condition, ReturnToGo) else None
    return {
        "name": condition.name,
        "outcome": condition.outcome,
        "scale": condition.scale,
        # The target of next:N is kept, whatever the option says.
        "update": "keep" if returns is not None and returns.keeps_target else "subtract",
        "clip": None if returns is None else returns.reward_clip,
    }
