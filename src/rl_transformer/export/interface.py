"""Inputs and outputs of an exported policy: their names, shapes and dtypes, in order.

"batch" stands for B episodes that act together, "time" for the T timesteps of their windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.policy import Policy
from rl_transformer.policy.actions import limits_in_dtype
from rl_transformer.policy.history import column_formats
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.spaces import Space

BATCH = "batch"
TIME = "time"


@dataclass(frozen=True)
class Port:
    """One input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    """NumPy's name of it."""

    def to_dict(self) -> JsonObject:
        """Return values that JSON can hold."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


def window_ports(policy: Policy) -> tuple[list[Port], list[Port]]:
    """Return the inputs and outputs of the file that acts on whole windows."""
    state, action, conditions = _columns(policy)
    inputs = [Port("observations", (BATCH, TIME, *state.shape), state.dtype)]
    # The network of behavior cloning reads nothing but observations.
    if policy.spec.arch == "decision_transformer":
        inputs.append(Port("actions", (BATCH, TIME, *action.shape), action.dtype))
        if conditions.shape[0]:
            inputs.append(Port("conditions", (BATCH, TIME, *conditions.shape), conditions.dtype))
        inputs.append(Port("timesteps", (BATCH, TIME), "int64"))
    inputs.append(Port("lengths", (BATCH,), "int64"))
    outputs = _action_outputs(policy)
    if policy.spec.target == "generated":
        outputs.append(Port("return_to_go", (BATCH,), "float32"))
    return [*inputs, *_choice_inputs(policy)], outputs


def step_ports(policy: Policy) -> tuple[list[Port], list[Port]]:
    """Return the inputs and outputs of the file that acts on one timestep and a KV cache."""
    state, action, conditions = _columns(policy)
    config = policy.spec.model
    assert config.attention_span is not None
    tokens = (config.attention_span + 1) * config.tokens_per_timestep
    cache = Port("cache", (BATCH, config.n_layer, tokens, 2 * config.hidden_size), "float32")
    inputs = [
        Port("observation", (BATCH, *state.shape), state.dtype),
        Port("action_before", (BATCH, *action.shape), action.dtype),
    ]
    if conditions.shape[0]:
        inputs.append(Port("conditions", (BATCH, *conditions.shape), conditions.dtype))
    inputs += [Port("timestep", (BATCH,), "int64"), cache]
    return [*inputs, *_choice_inputs(policy)], [*_action_outputs(policy), Port("next_cache", cache.shape, cache.dtype)]


def executed_dtype(space: Space) -> np.dtype:
    """Return the dtype of actions as an environment executes them."""
    return limits_in_dtype(space)[0].dtype if space.is_continuous else np.dtype(np.int64)


def _columns(policy: Policy) -> tuple[Port, Port, Port]:
    """Return one timestep of observations, actions and conditions."""
    formats = column_formats(policy.spec)
    names = ("states", "actions", "conditions")
    state, action, conditions = (
        Port(name, formats[name][0], str(formats[name][1]).removeprefix("torch.")) for name in names
    )
    return state, action, conditions


def _choice_inputs(policy: Policy) -> list[Port]:
    """Return the inputs from which an action is chosen: the legal actions, and random numbers."""
    head = policy.model.predict_action
    inputs = []
    if head.num_allowed:
        inputs.append(Port("allowed", (BATCH, head.num_allowed), "bool"))
    if policy.spec.action_selection == "sample" and head.can_sample:
        inputs.append(Port("uniforms", (BATCH, head.num_uniforms), "float64"))
    return inputs


def _action_outputs(policy: Policy) -> list[Port]:
    space = policy.spec.data.action_space
    shape = () if space.kind == "discrete" else space.shape
    return [
        Port("action", (BATCH, *shape), str(executed_dtype(space))),
        Port("parameters", (BATCH, _num_parameters(policy)), "float32"),
    ]


def _num_parameters(policy: Policy) -> int:
    """Return the number of parameters of the action head."""
    head = policy.spec.model.action_head
    # A Gaussian has two parameters, of its mean and of its spread, for each number of an action.
    return policy.spec.model.act_dim * (2 if head == "gaussian" else 1)
