"""Make a policy's spec from options and data; what the options leave open follows from the data and the trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from rl_transformer.conditions import Condition, ReturnToGo, conditions_from_data
from rl_transformer.conditions.interface import CONDITIONS, check_condition_contract, checked_column
from rl_transformer.config import RunConfig
from rl_transformer.config.sections import ModelConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.models.heads import HEADS, default_head
from rl_transformer.models.heads.interface import no_entropy
from rl_transformer.models.return_model import return_bins
from rl_transformer.policy.spec import PolicySpec, sizes_from_spaces
from rl_transformer.policy.support import empirical_quantiles
from rl_transformer.runtime import log
from rl_transformer.runtime.machine import versions
from rl_transformer.runtime.shapes import Float
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.selection import EpisodeSplit

# Options that have the same name in both configurations but another meaning of their default.
_RESOLVED_BELOW = {"max_ep_len", "action_tanh", "conditions", "action_head", "trunk"}


def shared_option_names() -> list[str]:
    """Return the options of ``model.*`` that go into `DecisionTransformerConfig` unchanged."""
    model_fields = {item.name for item in fields(DecisionTransformerConfig)}
    return [item.name for item in fields(ModelConfig) if item.name in model_fields - _RESOLVED_BELOW]


def make_policy_spec(
    dataset: TrajectoryDataset,
    returns: ReturnToGo,
    split: EpisodeSplit,
    config: RunConfig,
    trunk_fields: JsonMapping,
) -> PolicySpec:
    """Return everything about a policy but its weights.

    Args:
        dataset: The data.
        returns: The definition of a return.
        split: The episodes to train on and to hold out.
        config: The run's options.
        trunk_fields: Fields of `DecisionTransformerConfig` that a pretrained trunk determines.

    Raises:
        RLTransformerError: The options do not fit the data.
    """
    is_transformer = config.model.arch == "decision_transformer"
    conditions = conditions_from_data(dataset, config) if is_transformer else ()
    # Before training rather than in the first session, hours later.
    for condition in conditions:
        if CONDITIONS.is_from_plugin(condition.name):
            check_condition_contract(condition, dataset)
    model = _model_config(dataset, conditions, config, trunk_fields)
    bins = None
    if config.needs_return_model:
        bins = return_bins(np.asarray(returns.column(dataset)) / returns.scale, config.returns.bins)
    spec = PolicySpec(
        arch=config.model.arch,
        model=model,
        data=dataset.spec,
        context_length=config.windows.context_length,
        frame_stack=config.model.frame_stack,
        conditions=conditions,
        returns=returns,
        action_selection=config.policy.action_selection,
        target=config.policy.target,
        prior_exponent=config.policy.prior_exponent,
        prior_floor=config.policy.prior_floor,
        return_bins=bins,
        target_ranges=_initial_ranges(conditions, dataset, split),
        longest_episode=int(dataset.lengths.max()),
        dataset={
            "fingerprint": dataset.fingerprint,
            "num_trajectories": dataset.num_trajectories,
            "num_steps": dataset.num_steps,
        },
        versions=versions(),
    )
    return with_suggested_targets(spec, config, returns.comparable(dataset, split.train))


def with_suggested_targets(spec: PolicySpec, config: RunConfig, returns: Float[np.ndarray, "V"]) -> PolicySpec:
    """Return the spec with suggested targets: those of the options, or the quartiles and the maximum of ``returns``.

    Args:
        spec: The spec.
        config: The run's options.
        returns: (V,) values of the training episodes with which targets are compared, see `ReturnToGo.comparable`.
    """
    # A set, because episodes often share a few returns, and a target is worth suggesting once.
    quartiles = sorted({float(q) for q in np.quantile(returns, (0.25, 0.5, 0.75, 1.0))})
    ranges = {**spec.target_ranges, "return_to_go": (float(returns.min()), float(returns.max()))}
    return replace(
        spec,
        suggested_targets=tuple(config.policy.suggested_targets or quartiles),
        target_ranges=ranges,
        return_quantiles=tuple(empirical_quantiles(returns).tolist()),
    )


def _model_config(
    dataset: TrajectoryDataset, conditions: Sequence[Condition], config: RunConfig, trunk_fields: JsonMapping
) -> DecisionTransformerConfig:
    """Return the model's configuration: options, the spaces of the data, and whatever the trunk determines."""
    options = config.model
    action_space = dataset.spec.action_space
    head = default_head(action_space.kind) if options.action_head == "auto" else options.action_head
    _check_options_fit_the_data(config, head, dataset)
    # All episodes count, also those that are not trained on: the validation error is computed on them.
    longest = int(dataset.lengths.max())
    if options.max_ep_len is not None and longest > options.max_ep_len:
        log.info(
            f"note: the longest episode has {longest} steps; "
            f"timesteps from {options.max_ep_len} on share the last timestep embedding"
        )
    widths = tuple(condition.width for condition in conditions)
    values: JsonObject = {name: getattr(options, name) for name in shared_option_names()}
    values |= {
        **sizes_from_spaces(dataset.spec, options.frame_stack),
        "max_ep_len": options.max_ep_len or longest,
        "action_tanh": options.action_tanh,
        "conditions": tuple(condition.name for condition in conditions),
        # None for the usual case, so that policies of conditions without widths remain the same files.
        "condition_widths": None if set(widths) <= {1} else widths,
        "action_head": head,
        "window_length": config.window_length if options.timestep_embedding == "window" else None,
        "attention_span": config.windows.context_length if options.attention == "sliding_window" else None,
        "token_positions": options.positions == "tokens",
    }
    return DecisionTransformerConfig(**{**values, **trunk_fields})


def _initial_ranges(
    conditions: Sequence[Condition], dataset: TrajectoryDataset, split: EpisodeSplit
) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each condition at the first step of a training episode."""
    first_rows = dataset.offsets[:-1][split.train]
    ranges = {}
    for condition in conditions:
        values = checked_column(condition, dataset)[first_rows]
        ranges[condition.name] = (float(values.min()), float(values.max()))
    return ranges


def _check_options_fit_the_data(config: RunConfig, head_name: str, dataset: TrajectoryDataset) -> None:
    """Raise an error if options do not fit the spaces of the data."""
    options = config.model
    space = dataset.spec.observation_space
    kind = dataset.spec.action_space.kind
    head = HEADS.get(head_name, where="model.action_head")
    if kind not in head.space_kinds:
        raise RLTransformerError(
            f"the {head_name} head does not fit these actions ({kind})", where="model.action_head", fix="use auto"
        )
    if options.stream_entry != "sum" and space.streams is None:
        raise RLTransformerError(
            "these observations do not combine images with other parts", where="model.stream_entry", fix="leave it sum"
        )
    if options.frame_stack > 1 and not space.is_image:
        raise RLTransformerError(
            "frames are stacked for observations that are a single image", where="model.frame_stack", fix="set it to 1"
        )
    _check_image_shift(config.training.image_shift, space.image_shape)
    if not dataset.spec.action_space.is_continuous and options.action_tanh != config.defaults().model.action_tanh:
        raise RLTransformerError(f"{kind} actions are not squashed", where="model.action_tanh", fix="leave it out")
    if options.arch == "behavior_cloning" and space.has_image:
        raise RLTransformerError(
            "the MLP takes vectors, not images",
            where="model.arch",
            fix="use decision_transformer with conditions []",
        )
    if space.has_image and config.policy.support_size not in (0, config.defaults().policy.support_size):
        raise RLTransformerError(
            "images are not compared", where="policy.support_size", fix="leave it out, or set it to 0"
        )
    if config.training.entropy_weight and not head.has_entropy:
        raise no_entropy(head_name)
    if config.policy.action_selection == "sample" and not head.can_sample:
        raise RLTransformerError(
            f"the {head_name} head has no distribution to sample from",
            where="policy.action_selection",
            fix="use greedy",
        )


def _check_image_shift(most: int, image_shape: tuple[int, ...] | None) -> None:
    """Raise an error if observations cannot be shifted by up to ``most`` pixels."""
    if most and image_shape is None:
        raise RLTransformerError("only a single image can be shifted", where="training.image_shift", fix="set it to 0")
    if image_shape is not None and most >= min(image_shape[-2:]):
        height, width = image_shape[-2:]
        raise RLTransformerError(
            f"a shift of {most} pixels can leave nothing of images of {height} x {width} pixels",
            where="training.image_shift",
            fix=f"give less than {min(height, width)}; 4 is the published shift of 84 x 84 pixels",
        )
