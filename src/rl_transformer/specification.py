"""What follows from data and options together: which episodes to learn from, and everything about the policy but its numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.machine import versions
from rl_transformer.models import DecisionTransformerConfig
from rl_transformer.policy import PolicySpec
from rl_transformer.training.return_model import return_bins
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.conditions import ReturnRule
from rl_transformer.windows.sampling import split_trajectories, top_trajectories

_SAME_NAMES = (
    "hidden_size", "n_layer", "n_head", "n_inner", "activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "condition_entry", "timestep_initializer_range", "embedding", "time", "tie_action_head",
)  # fmt: skip


def check_windows(longest: int, config: RunConfig) -> None:
    """Refuse windows that would never see how an episode ends."""
    if config.windows.start == "first" and longest > config.window_length:
        longer = "context_length" if config.model.attention == "window" else "window_length"
        raise RLTransformerError(
            f"an episode has {longest} steps, and windows that begin with it end after {config.window_length}",
            where="windows.start",
            fix=f"set windows.start to any, or windows.{longer} to {longest}",
        )


def choose_trajectories(
    dataset: TrajectoryDataset, returns: np.ndarray, config: RunConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the episodes to learn from and those held out."""
    data = config.dataset
    chosen = np.arange(dataset.num_trajectories)[: data.max_trajectories]
    if data.min_return is not None:
        chosen = chosen[returns[chosen] >= data.min_return]
        if not chosen.size:
            raise RLTransformerError(
                f"no episode has a return of {data.min_return:g} or more; the largest is {returns.max():g}",
                where="dataset.min_return",
                fix=f"choose {returns.max():g} or less",
            )
    if data.top_fraction < 1:
        chosen = chosen[top_trajectories(returns[chosen], dataset.lengths[chosen], data.top_fraction)]
    learned, held_out = split_trajectories(len(chosen), data.validation_fraction, seed=config.training.seed)
    return chosen[learned], chosen[held_out]


def policy_spec(
    dataset: TrajectoryDataset,
    rule: ReturnRule,
    returns: np.ndarray,
    config: RunConfig,
    of_trunk: dict[str, Any] | None = None,
) -> PolicySpec:
    """Return everything about the policy but its numbers: what the options leave open follows from data and trunk."""
    m, space = config.model, dataset.spec.observation_space
    discrete = dataset.spec.action_space.kind == "discrete"
    head = ("discrete" if discrete else "continuous") if m.action_head == "auto" else m.action_head
    image = space.image_shape
    image_shape = (image[0] * m.frame_stack, *image[1:]) if image else None
    _check_fit(config, head, discrete=discrete, image=space.is_image)
    longest = int(dataset.lengths.max())
    if m.max_ep_len is not None and longest > m.max_ep_len:
        print(
            f"note: the longest episode has {longest} steps; steps from {m.max_ep_len} on share the last timestep embedding",
            flush=True,
        )
    model = DecisionTransformerConfig(
        state_dim=max(1, 0 if space.is_image else space.flat_dim),
        act_dim=dataset.spec.action_space.flat_dim,
        max_ep_len=m.max_ep_len or longest,
        action_tanh=m.action_tanh,
        conditions=() if m.arch == "behavior_cloning" else tuple(m.conditions),
        action_head=head,
        image_shape=image_shape,
        attention_span=config.windows.context_length if m.attention == "streaming" else None,
        token_positions=m.positions == "tokens",
        **{name: getattr(m, name) for name in _SAME_NAMES} | (of_trunk or {}),
    )
    spec = PolicySpec(
        arch=m.arch,
        model=model,
        data=dataset.spec,
        context_length=config.windows.context_length,
        frame_stack=m.frame_stack,
        return_rule=rule,
        action_selection=config.policy.action_selection,
        target=config.policy.target,
        prior_exponent=config.policy.prior_exponent,
        prior_floor=config.policy.prior_floor,
        return_bins=return_bins(rule.column(dataset) / rule.scale, config.returns.bins)
        if config.needs_return_model
        else None,
        dataset={
            "fingerprint": dataset.fingerprint,
            "num_trajectories": dataset.num_trajectories,
            "num_steps": dataset.num_steps,
        },
        versions=versions(),
    )
    return suggesting(spec, config, returns)


def suggesting(spec: PolicySpec, config: RunConfig, returns: np.ndarray) -> PolicySpec:
    """Return the spec with the targets to suggest: those of the options, or quartiles and maximum of ``returns``."""
    quartiles = sorted({float(q) for q in np.quantile(returns, (0.25, 0.5, 0.75, 1.0))})
    seen = float(returns.min()), float(returns.max())
    return replace(spec, suggested_targets=tuple(config.policy.suggested_targets or quartiles), return_range=seen)


def _check_fit(config: RunConfig, head: str, *, discrete: bool, image: bool) -> None:
    """Refuse options that do not fit the spaces of the data."""
    m = config.model
    for wrong, option, problem, fix in (
        (
            discrete != (head == "discrete"),
            "model.action_head",
            f"the {head} head does not fit these actions",
            "use auto",
        ),
        (
            m.frame_stack > 1 and not image,
            "model.frame_stack",
            "frames are stacked for images only",
            "set it to 1",
        ),
        (
            m.arch == "behavior_cloning" and image,
            "model.arch",
            "the MLP takes vectors, not images",
            "use decision_transformer with conditions []",
        ),
        (
            config.policy.action_selection == "sample" and head == "continuous",
            "policy.action_selection",
            "the continuous head has no distribution to sample from",
            "use greedy",
        ),
    ):
        if wrong:
            raise RLTransformerError(problem, where=option, fix=fix)
