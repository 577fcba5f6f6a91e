"""Make windows of logged data in the units of a policy."""

from __future__ import annotations

import hashlib

import torch

from rl_transformer.conditions.interface import Condition, checked_column
from rl_transformer.errors import RLTransformerError
from rl_transformer.policy.spec import PolicySpec
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.gathering import ConditionColumn, WindowGatherer
from rl_transformer.windows.normalization import Normalizer


def make_gatherer(
    spec: PolicySpec, normalizer: Normalizer, dataset: TrajectoryDataset, window_length: int, device: torch.device
) -> WindowGatherer:
    """Return a gatherer of windows of ``window_length`` timesteps, in the form in which the policy reads them."""
    return WindowGatherer(
        dataset,
        conditions=[condition_column(condition, dataset) for condition in spec.conditions],
        window_length=window_length,
        max_timesteps=spec.model.max_ep_len,
        normalizer=normalizer,
        frame_stack=spec.frame_stack,
        device=device,
    )


def condition_column(condition: Condition, dataset: TrajectoryDataset) -> ConditionColumn:
    """Return the values of a condition at every step of the data, together with its scale."""
    return ConditionColumn(checked_column(condition, dataset), condition.scale)


def data_fingerprint(spec: PolicySpec, dataset: TrajectoryDataset) -> str:
    """Return a hash of everything in the data that affects a run: the fingerprint, and columns of conditions."""
    # The fingerprint covers observations, actions and rewards. Costs, for example, are an extra column.
    further = [condition for condition in spec.conditions if condition.name != "return_to_go"]
    columns = (checked_column(condition, dataset) for condition in further)
    return dataset.fingerprint + "".join(hashlib.sha256(column.tobytes()).hexdigest() for column in columns)


def check_spaces(spec: PolicySpec, dataset: TrajectoryDataset) -> None:
    """Raise an error if the data has other observations or actions than the policy was trained on."""
    data_spaces = dataset.spec.to_dict()
    trained_spaces = spec.data.to_dict()
    other = [space for space in ("observation_space", "action_space") if data_spaces[space] != trained_spaces[space]]
    if other:
        raise RLTransformerError(
            f"has a different {other[0]} than the policy was trained on",
            where=dataset.spec.source,
            fix="pass the data that the policy was trained on, or data with the same spaces",
        )
