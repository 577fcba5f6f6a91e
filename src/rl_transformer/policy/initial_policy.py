"""Start a policy from the weights of an earlier one, for example to fine-tune it on newer logs.

Tensors of the same name and size are copied. A part whose meaning has changed (other observations, categories or
actions) keeps its new random weights even if its size is the same, and both are reported.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import PolicyModel
from rl_transformer.policy.loading import load_policy
from rl_transformer.policy.make_spec import shared_option_names
from rl_transformer.policy.policy import Policy
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.runtime import log
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.windows.normalization import Normalizer

# Options of the network that may differ between the two policies: they act on training or on initial weights only.
_MAY_DIFFER = {"resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range", "timestep_initializer_range"}
# Parts of the network that read or predict observations (the first layer of behavior cloning among them), and actions.
_OBSERVATION_PARTS = ("embed_state.", "predict_state.", "layers.0.")
_ACTION_PARTS = ("embed_action.", "predict_action.")
_TIMESTEPS = "embed_timestep.weight"


def with_initial_policy(config: RunConfig) -> tuple[RunConfig, Policy | None]:
    """Load the policy of ``model.init_from``; return the options with its return scale, and the policy.

    Without the option, the options are returned as they are, and None. With ``model.init_statistics`` refit, or a scale in
    ``returns.scale``, the scale of the policy is not used.

    Raises:
        RLTransformerError: There is no such policy, or its network has other sizes than the options name.
    """
    if config.model.init_from is None:
        return config, None
    policy = load_policy(config.model.init_from)
    _check_same_network(policy.spec, config)
    # A policy that reads no return has no scale to keep; setting one would contradict its other options.
    reads_return = policy.spec.reads_return and "return_to_go" in config.model.conditions
    if config.model.init_statistics == "keep" and config.returns.scale is None and reads_return:
        config = RunConfig.from_dict(config.to_dict())
        config.returns.scale = policy.spec.returns.scale
    return config, policy


def copy_initial_weights(model: PolicyModel, spec: PolicySpec, initial: Policy) -> None:
    """Copy into ``model`` every tensor of the initial policy that means the same there, and report what is new.

    Args:
        model: Network with its own initial weights; changed in place.
        spec: Spec of the new policy.
        initial: The policy to start from.
    """
    source = initial.model.state_dict()
    changed = _changed_parts(spec, initial.spec)
    new: dict[str, str] = {}
    target = model.state_dict()
    for name, tensor in target.items():
        reason = next((text for parts, text in changed if name.startswith(parts)), None)
        reason = reason or _copy(name, tensor, source)
        if reason is not None:
            new.setdefault(".".join(name.split(".")[:2]), reason)
    log.info(f"weights from {initial!r}")
    for part, reason in new.items():
        log.info(f"new weights: {part} ({reason})")
    before, now = initial.spec.returns, spec.returns
    if initial.spec.reads_return and spec.reads_return and before != now:
        log.info(f"note: a return is {now} here, and was {before} for the policy that the weights come from")


def choose_statistics(own: Normalizer, spec: PolicySpec, initial: Policy | None, config: RunConfig) -> Normalizer:
    """Return the normalization of observations to train with: the initial policy's, or the one of the data.

    Args:
        own: Normalization by the statistics of the new data.
        spec: Spec of the new policy.
        initial: The policy that the weights come from; None if they are random.
        config: The run's options.
    """
    if initial is None:
        return own
    kept = initial.normalizer
    if config.model.init_statistics == "refit":
        log.info("statistics of observations and returns: those of the new data, as model.init_statistics says")
        return own
    if own.observation_mean is None:  # images alone, which are not normalized
        return own
    if _layout(spec.data) != _layout(initial.spec.data):
        log.info("statistics of observations: those of the new data, because the observations differ")
        return own
    log.info("statistics of observations: those of the initial policy, which its weights were trained with")
    return replace(own, observation_mean=kept.observation_mean, observation_scale=kept.observation_scale)


def _copy(name: str, tensor: Tensor, source: dict[str, Tensor]) -> str | None:
    """Copy a tensor from the source; return the reason why it keeps new weights, or None."""
    earlier = source.get(name)
    if earlier is None:
        return "the earlier policy has no such part"
    with torch.no_grad():
        if name == _TIMESTEPS and earlier.shape[1] == tensor.shape[1]:
            # Episodes of the new data may be longer or shorter; timestep t means the same in both.
            rows = min(len(tensor), len(earlier))
            tensor[:rows] = earlier[:rows]
            # Sessions hold the last row for later timesteps, so it is what the earlier policy knew of them.
            tensor[rows:] = earlier[-1]
            return None
        if earlier.shape != tensor.shape:
            return f"{_sizes(earlier)} in the earlier policy, {_sizes(tensor)} here"
        tensor.copy_(earlier)
    return None


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _changed_parts(spec: PolicySpec, earlier: PolicySpec) -> list[tuple[tuple[str, ...], str]]:
    """Return (prefixes of tensors, reason) for the parts of the network whose inputs or outputs mean something else."""
    changed = []
    if _layout(spec.data) != _layout(earlier.data):
        changed.append((_OBSERVATION_PARTS, "the observations differ"))
    if _actions(spec.data) != _actions(earlier.data):
        changed.append((_ACTION_PARTS, "the actions differ"))
    elif spec.model.action_head != earlier.model.action_head:
        changed.append((_ACTION_PARTS, "the action head differs"))
    return changed


def _layout(data: DataSpec) -> tuple[object, ...]:
    """Return what the values of an observation are, as far as the data says: sizes, and columns of a table."""
    space = data.observation_space
    table = None if data.table is None else (data.table.numbers, data.table.categories)
    return space.kind, space.flat_dim, space.image_shape, space.streams and space.streams.shapes, table


def _actions(data: DataSpec) -> tuple[object, ...]:
    space = data.action_space
    table = None if data.table is None else (data.table.action, data.table.action_values)
    bounds = tuple(part.tolist() for part in space.bounds) if space.is_continuous else None
    return space.kind, space.flat_dim, space.nvec, bounds, table


def _check_same_network(earlier: PolicySpec, config: RunConfig) -> None:
    """Raise an error that names the options to set if the networks have other sizes or other computations."""
    where = "model.init_from"
    if earlier.model.trunk is not None:
        raise RLTransformerError(
            "that policy's trunk is a transformer of the transformers library, from which no run can start yet",
            where=where,
            fix="start from a policy with blocks of this library, or set model.trunk to the pretrained transformer",
        )
    wanted: dict[str, object] = {"arch": earlier.arch, "blocks": earlier.model.blocks}
    network = sorted(set(shared_option_names()) - _MAY_DIFFER)
    if earlier.arch == "behavior_cloning":
        network = ["hidden_size", "n_layer"]
    wanted |= {name: getattr(earlier.model, name) for name in network}
    if earlier.data.action_space.is_continuous:
        wanted["action_tanh"] = earlier.model.action_tanh
    differing = {name: value for name, value in wanted.items() if getattr(config.model, name) != value}
    if differing:
        options = " ".join(f"--model.{name} {_as_argument(value)}" for name, value in differing.items())
        raise RLTransformerError(
            f"that policy has a different network: {', '.join(sorted(differing))} differ",
            where=where,
            fix=f"pass {options}, or use the preset that it was trained with",
        )


def _as_argument(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
