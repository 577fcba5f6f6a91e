"""Attention maps of a policy, averaged over heads and logged windows (Reid et al. 2022, section 5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.models import DecisionTransformerModel
from rl_transformer.policy import Policy
from rl_transformer.policy.gatherer import make_gatherer
from rl_transformer.runtime.files import translate_write_errors
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.sampling import WindowIndex

_AT_ONCE = 32


def attention_maps(policy: Policy, dataset: TrajectoryDataset, *, num_windows: int, seed: int) -> JsonObject:
    """Average the attention weights over heads and over whole windows of ``dataset``.

    The weights are the ones that the policy computes with; fast paths that do not keep them compute
    the same numbers to rounding.

    Returns:
        ``tokens`` names of the P tokens of a timestep; ``context_length`` K; ``layers``: for each ``map`` (P K, P K), row
        attends to column; ``same_type``, the share of attention that goes to tokens of the row's own type, the mean over rows;
        ``distance``, timesteps back, likewise; ``even``: both if every visible token had the same weight.

    Raises:
        RLTransformerError: A policy without attention, data of other spaces, or no episode as long as a window.
    """
    model, spec = policy.model, policy.spec
    if not isinstance(model, DecisionTransformerModel):
        raise RLTransformerError(
            "this policy has no attention: it is an MLP", where="attention", fix="name another run"
        )
    theirs, ours = dataset.spec.to_dict(), spec.data.to_dict()
    other = [space for space in ("observation_space", "action_space") if theirs[space] != ours[space]]
    if other:
        raise RLTransformerError(
            f"has another {other[0]} than the policy was trained on", where=dataset.spec.source, fix="pass its own data"
        )
    length, per_step = spec.context_length, model.config.tokens_per_timestep
    gatherer = make_gatherer(spec, policy.normalizer, dataset, length, policy.device)
    index = _whole_windows(dataset, length, num_windows, seed)
    total: list[Tensor] = []
    for part in np.array_split(np.arange(len(index.rows)), -(-len(index.rows) // _AT_ONCE)):
        weights = _weights(model, gatherer.gather(WindowIndex(index.rows[part], index.trajectories[part])).inputs)
        total = [w if not total else t + w for t, w in zip(total or weights, weights, strict=True)]
    maps = [(t / len(index.rows)).cpu().numpy() for t in total]
    even = np.tril(np.ones((length * per_step, length * per_step)))
    even /= even.sum(1, keepdims=True)
    names = [*model.config.conditions] if model.config.condition_entry == "token" else []
    return {
        "tokens": [*names, "observation", "action"],
        "context_length": length,
        "num_windows": len(index.rows),
        "policy": policy.content_hash,
        "layers": [{"layer": i, **_figures(m, per_step), "map": m.round(6).tolist()} for i, m in enumerate(maps)],
        "even": _figures(even, per_step),
    }


@torch.inference_mode()
def _weights(model: DecisionTransformerModel, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return each layer's weights, averaged over heads and summed over windows: (L, L) in float64."""
    found = model.trunk.run(model.embed(*inputs).tokens, None, keep_weights=True).attentions
    assert found is not None
    return [layer.double().mean(1).sum(0) for layer in found]


def _figures(weights: np.ndarray, per_step: int) -> dict[str, float]:
    place = np.arange(len(weights))
    same = (place[:, None] - place) % per_step == 0
    back = place[:, None] // per_step - place // per_step
    return {
        "same_type": float((weights * same).sum(1).mean()),
        "distance": float((weights * back).sum(1).mean()),
    }


def _whole_windows(dataset: TrajectoryDataset, length: int, count: int, seed: int) -> WindowIndex:
    """Draw windows without padding, uniformly over all there are."""
    possible = np.maximum(dataset.lengths - length + 1, 0)
    if count < 1 or not possible.any():
        raise RLTransformerError(
            f"no episode has the {length} steps of a window, or {count} windows are asked for",
            where="attention",
            fix="pass data with longer episodes, and a positive number of windows",
        )
    drawn = generator(Stream.ATTENTION_WINDOWS, seed).integers(0, possible.sum(), count)
    ends = np.cumsum(possible)
    trajectories = np.searchsorted(ends, drawn, side="right")
    return WindowIndex(dataset.offsets[trajectories] + drawn - (ends - possible)[trajectories], trajectories)


def plot_attention(report: JsonObject, path: Path) -> None:
    """Draw the maps, a layer each."""
    from matplotlib.figure import Figure

    layers = report["layers"]
    drawn = Figure(figsize=(4.2 * len(layers), 4.9), layout="constrained")
    for axes, layer in zip(np.atleast_1d(drawn.subplots(1, len(layers))), layers, strict=True):
        weights = np.asarray(layer["map"])
        axes.imshow(np.where(np.tril(np.ones_like(weights)) > 0, weights, np.nan), cmap="Blues", vmin=0)
        axes.set_title(f"layer {layer['layer']}: same type {layer['same_type']:.2f}", fontsize=10, color=plots.INK)
        axes.set_xlabel(f"attended token ({', '.join(report['tokens'])}, ...)", fontsize=8)
    with translate_write_errors(path):
        drawn.savefig(path, dpi=120)
