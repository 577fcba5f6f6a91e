"""Compute attention maps of a policy, averaged over heads and logged windows (Reid et al. 2022, section 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.policy import Policy
from rl_transformer.policy.gatherer import check_spaces, make_gatherer
from rl_transformer.policy.session import PolicySession
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gathering import WindowGatherer
from rl_transformer.windows.sampling import WindowIndex

_MARKOV_SHARE = 0.5
_AT_ONCE = 32  # windows per forward pass; the maps of all layers and heads are in memory at once


def attention_maps(policy: Policy, dataset: TrajectoryDataset, *, num_windows: int, seed: int) -> JsonObject:
    """Average the attention weights over heads and over whole windows of ``dataset``.

    The weights are recomputed by the unfused attention code; the fused kernels that the policy normally uses do not
    return weights, and agree with it up to rounding.

    Args:
        policy: A policy with a transformer.
        dataset: Logged data with the policy's spaces.
        num_windows: Windows to average over; they are drawn with replacement.
        seed: Seed of the choice of windows.

    Returns:
        A JSON-ready dict. ``tokens`` names the P tokens of a timestep, ``context_length`` is K, and ``layers`` has one
        dict per layer: ``map`` (P K, P K), in which row i attends to column j; ``same_type``, the fraction of attention
        on tokens of the row's own type; ``distance``, the mean number of timesteps between the two; ``heads``,
        which `_describe_heads` documents. All are means over rows. ``even`` has them for attention that is uniform over all visible tokens.

    Raises:
        RLTransformerError: The policy has no attention, the data has other spaces, or no episode fills a window.
    """
    model = _transformer_of(policy)
    spec = policy.spec
    check_spaces(spec, dataset)
    length = spec.context_length
    per_step = model.config.tokens_per_timestep
    gatherer = make_gatherer(spec, policy.normalizer, dataset, length, policy.device)  # windows as in training
    index = _whole_windows(dataset, length, num_windows, seed)
    by_head = _mean_weights(model, gatherer, index)
    maps = [heads.mean(0) for heads in by_head]
    random_heads = _weights_of_random_tokens(model, length * per_step, seed, policy.device)
    # Causality alone makes some tokens more visible than others. Uniform attention under the same mask is the baseline
    # that the measured numbers have to be compared with.
    even = np.tril(np.ones((length * per_step, length * per_step)))
    even /= even.sum(1, keepdims=True)
    return {
        "tokens": _token_names(model),
        "context_length": length,
        "num_windows": len(index.rows),
        "policy": policy.content_hash,
        "layers": [
            {
                "layer": i,
                **_summary(m, per_step),
                "heads": _describe_heads(heads, at_random),
                "map": m.round(6).tolist(),
            }
            for i, (m, heads, at_random) in enumerate(zip(maps, by_head, random_heads, strict=True))
        ],
        "even": {**_summary(even, per_step), "own_token": _own_token(even)},
    }


@torch.inference_mode()
def session_attention(policy: Policy, session: PolicySession) -> JsonObject | None:
    """Return what the last action's token attended to, in the last layer, averaged over heads.

    Call it after `PolicySession.act` and before ``observe``.

    Returns:
        ``tokens`` names the P tokens of a timestep, and ``weights`` has one row of P per timestep of the window, oldest
        first; tokens that the prediction cannot see are 0. None if the policy has no attention over a whole window.
    """
    window = session.newest_window()
    if window is None or not isinstance(policy.model, DecisionTransformerModel):
        return None
    per_step = policy.model.config.tokens_per_timestep
    last = _weights(policy.model, policy.model.embed(*window).tokens)[-1].mean(0)
    predicting = last[-2]  # the token of the newest observation; after it comes that of the action
    return {"tokens": _token_names(policy.model), "weights": predicting.view(-1, per_step).round(decimals=4).tolist()}


def _token_names(model: DecisionTransformerModel) -> list[str]:
    """Return the names of a timestep's tokens, in their order."""
    names = [*model.config.conditions] if model.config.condition_entry == "token" else []
    count = model.config.tokens_per_observation
    observation = ["observation"] if count == 1 else [f"observation part {i + 1}" for i in range(count)]
    return [*names, *observation, "action"]


def _transformer_of(policy: Policy) -> DecisionTransformerModel:
    model = policy.model
    if not isinstance(model, DecisionTransformerModel):
        raise RLTransformerError(
            "this policy has no attention: it is an MLP",
            where="attention",
            fix="use a run with arch decision_transformer",
        )
    return model


@torch.inference_mode()
def _mean_weights(model: DecisionTransformerModel, gatherer: WindowGatherer, index: WindowIndex) -> list[np.ndarray]:
    """Return the mean weights of each layer and head over windows: (H, L, L)."""
    # Maps are summed part by part, so that memory does not grow with the number of windows.
    total: list[Tensor] = []
    for part in np.array_split(np.arange(len(index.rows)), -(-len(index.rows) // _AT_ONCE)):
        inputs = gatherer.gather(WindowIndex(index.rows[part], index.trajectories[part])).inputs
        weights = _weights(model, model.embed(*inputs).tokens)
        total = [w if not total else t + w for t, w in zip(total or weights, weights, strict=True)]
    return [(t / len(index.rows)).cpu().numpy() for t in total]


@torch.inference_mode()
def _weights(model: DecisionTransformerModel, tokens: Tensor) -> list[Tensor]:
    """Return the weights of each layer and head for tokens (B, L, E), summed over windows: (H, L, L) float64."""
    attentions = model.trunk.run(tokens, None, keep_weights=True).attentions
    if attentions is None:
        raise RLTransformerError(
            f"the trunk {model.config.blocks!r} returns no attention weights",
            where="attention",
            fix="use a run with arch decision_transformer",
        )
    return [layer.double().sum(0) for layer in attentions]


@torch.inference_mode()
def _weights_of_random_tokens(
    model: DecisionTransformerModel, length: int, seed: int, device: torch.device
) -> list[np.ndarray]:
    """Return the mean weights of each layer and head on random tokens: (H, L, L)."""
    drawn = generator(Stream.ATTENTION_WINDOWS, seed, 1).standard_normal((_AT_ONCE, length, model.config.hidden_size))
    tokens = torch.from_numpy(drawn).float().to(device)
    tokens = functional.layer_norm(tokens, tokens.shape[-1:])
    return [(layer / _AT_ONCE).cpu().numpy() for layer in _weights(model, tokens)]


def _describe_heads(windows: np.ndarray, at_random: np.ndarray) -> list[JsonObject]:
    """Return what each head does with the last token that it sees, from its maps on windows and random tokens (H, L, L).

    ``own_token`` is the attention of a token on itself, the last one that it sees (mean over rows but the first, which
    sees nothing else); ``own_token_random`` the same on random tokens of the same number and width, each normalized to
    mean 0 and variance 1; ``is_markov``: both are above one half. Such a head passes on the last token whatever the input
    is (Markov heads, as in arXiv 2409.06985, whose own definition may differ; this
    measure holds for every architecture).
    """
    shares = [(_own_token(one), _own_token(other)) for one, other in zip(windows, at_random, strict=True)]
    return [
        {"head": i, "own_token": own, "own_token_random": other, "is_markov": min(own, other) > _MARKOV_SHARE}
        for i, (own, other) in enumerate(shares)
    ]


def _own_token(weights: np.ndarray) -> float:
    """Return the mean attention of a map's tokens on themselves, without the first, which sees nothing else."""
    return float(np.diagonal(weights)[1:].mean())


def _summary(weights: np.ndarray, per_step: int) -> dict[str, float]:
    """Return ``same_type`` and ``distance`` of a map; the type of a token is its position within the timestep."""
    token = np.arange(len(weights))
    is_same_type = (token[:, None] - token) % per_step == 0
    timesteps_back = token[:, None] // per_step - token // per_step
    return {
        "same_type": float((weights * is_same_type).sum(1).mean()),
        "distance": float((weights * timesteps_back).sum(1).mean()),
    }


def _whole_windows(dataset: TrajectoryDataset, length: int, count: int, seed: int) -> WindowIndex:
    """Draw windows uniformly over all windows without padding, which would blur an average over positions."""
    possible = np.maximum(dataset.lengths - length + 1, 0)
    if count < 1 or not possible.any():
        raise RLTransformerError(
            f"{count} windows of {length} steps cannot be drawn; "
            f"the longest episode has {max(dataset.lengths, default=0)} steps",
            where="attention",
            fix="pass data with longer episodes, and a positive number of windows",
        )
    # One number selects among the windows of all episodes; the cumulative counts say which episode it falls into.
    drawn = generator(Stream.ATTENTION_WINDOWS, seed).integers(0, possible.sum(), count)
    ends = np.cumsum(possible)
    trajectories = np.searchsorted(ends, drawn, side="right")
    return WindowIndex(dataset.offsets[trajectories] + drawn - (ends - possible)[trajectories], trajectories)


def plot_attention(report: JsonObject, path: Path) -> None:
    """Draw one map per layer, from the report of `attention_maps`, into a PNG.

    Raises:
        RLTransformerError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    layers = report["layers"]
    drawn = Figure(figsize=(4.2 * len(layers), 4.9), layout="constrained")
    for axes, layer in zip(np.atleast_1d(drawn.subplots(1, len(layers))), layers, strict=True):
        weights = np.asarray(layer["map"])
        # NaN is drawn as white, which tells tokens that are masked from tokens that get no attention.
        axes.imshow(np.where(np.tril(np.ones_like(weights)) > 0, weights, np.nan), cmap="Blues", vmin=0)
        axes.set_title(f"layer {layer['layer']}: same type {layer['same_type']:.2f}", fontsize=10, color=plots.INK)
        axes.set_xlabel(f"attended token ({', '.join(report['tokens'])}, ...)", fontsize=8)
    plots.save(drawn, path)
