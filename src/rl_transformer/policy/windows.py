"""Windows of logged data in a policy's units."""

from __future__ import annotations

import torch

from rl_transformer.policy.policy import PolicySpec
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gather import WindowGatherer
from rl_transformer.windows.scaling import Scaling


def gatherer_of(
    spec: PolicySpec, scaling: Scaling, dataset: TrajectoryDataset, window_length: int, device: torch.device
) -> WindowGatherer:
    """Return what cuts windows of ``window_length`` timesteps out of the data, as the policy sees them."""
    rule, asks = spec.return_rule, spec.conditioned or spec.return_bins is not None
    return WindowGatherer(
        dataset,
        conditions=[rule.column(dataset)] if asks else [],
        condition_scales=[rule.scale] if asks else [],
        window_length=window_length,
        max_timesteps=spec.model.max_ep_len,
        scaling=scaling,
        frame_stack=spec.frame_stack,
        device=device,
    )
