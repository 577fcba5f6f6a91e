"""How far an observation is from the training data.

Shapes: M stored observations, D length of an observation vector, R observations, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl_transformer.config.rules import MIN_SUPPORT_SIZE
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.shapes import Float, Float64
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.windows.normalization import Normalizer
from rl_transformer.windows.selection import EpisodeSplit

_MAX_OBSERVATIONS = 1024
# Wide observations get fewer rows, so that they do not fill policy files: 4 MiB of float32.
_MAX_NUMBERS = 2**20
NUM_QUANTILES = 101


@dataclass(frozen=True)
class Support:
    """A sample of the training observations, with which live ones are compared."""

    observations: Float[Tensor, "M D"]
    """Normalized observations, evenly spaced over the steps of the training episodes."""
    distances: Float[Tensor, "quantiles"]
    """Quantiles (0, 1, ..., 100 %) of the distance of each stored observation to the nearest other one."""

    @classmethod
    def from_data(
        cls, dataset: TrajectoryDataset, split: EpisodeSplit, normalizer: Normalizer, size: int
    ) -> Support | None:
        """Choose at most ``size`` observations of the training episodes; None for images and for too few of them."""
        space = dataset.spec.observation_space
        rows = _evenly_spaced_rows(dataset, split, min(size, _MAX_NUMBERS // max(1, space.flat_dim)))
        # Distances between pixels say little about pictures, and between a handful of observations about nothing.
        if space.has_image or len(rows) < MIN_SUPPORT_SIZE or dataset.observations.shape[1:] != (space.flat_dim,):
            return None
        recorded = torch.from_numpy(np.ascontiguousarray(dataset.observations[rows])).to(normalizer_device(normalizer))
        observations = normalizer.normalize(recorded).float().cpu()
        distances = _distances(observations, observations).fill_diagonal_(torch.inf).amin(1)
        return cls(observations, torch.from_numpy(empirical_quantiles(distances.numpy())).float())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], size: int, *, where: object) -> Support | None:
        """Read the fields of a policy file; None if it has none, as files of earlier formats.

        Raises:
            RLTransformerError: They do not fit observations of ``size`` numbers.
        """
        if not tensors:
            return None
        observations = tensors.get("observations", torch.empty(0))
        distances = tensors.get("distances", torch.empty(0))
        is_valid = (
            observations.dim() == 2
            and observations.shape[1] == size
            and 2 <= len(observations) <= _MAX_OBSERVATIONS
            and distances.shape == (NUM_QUANTILES,)
            and observations.dtype == distances.dtype == torch.float32
            and bool(observations.isfinite().all() and distances.isfinite().all())
        )
        if not is_valid or len(tensors) != 2:
            raise RLTransformerError(
                "does not fit policy.json: the sample of observations is malformed",
                where=where,
                fix="restore the folder from a copy",
            )
        return cls(observations, distances)

    def describe(self, states: Float[Tensor, "R D"]) -> list[JsonObject]:
        """Return for each normalized observation its distance, and the share of training observations as far or farther.

        The share is 1 for an observation that is as close to its nearest neighbor in the sample as any, and 0 for one
        that is farther away than all of them are from each other.
        """
        nearest = _distances(states.float(), self.observations.to(states.device)).amin(1).cpu()
        shares = share_at_least(self.distances.cpu().double().numpy(), nearest.double().numpy())
        return [
            {"distance": float(distance), "share": float(share)}
            for distance, share in zip(nearest, shares, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {"observations": self.observations, "distances": self.distances}


def empirical_quantiles(values: Float[np.ndarray, "E"]) -> Float64[np.ndarray, "quantiles"]:
    """Return the 0, 1, ..., 100 % quantiles, each of them one of the values."""
    levels = np.linspace(0, 1, NUM_QUANTILES)
    return np.quantile(np.asarray(values, np.float64), levels, method="inverted_cdf")


def share_at_least(
    quantiles: Float64[np.ndarray, "quantiles"], values: Float64[np.ndarray, "R"]
) -> Float64[np.ndarray, "R"]:
    """Return for each value the share of quantiles that are at least as large, with a tolerance for rounding."""
    tolerance = 1e-6 * np.abs(values)[:, None]
    return (quantiles[None] >= values[:, None] - tolerance).mean(axis=1)


def normalizer_device(normalizer: Normalizer) -> torch.device:
    """Return the device of the statistics."""
    mean = normalizer.observation_mean
    return torch.device("cpu") if mean is None else mean.device


def _evenly_spaced_rows(dataset: TrajectoryDataset, split: EpisodeSplit, count: int) -> np.ndarray:
    """Return up to ``count`` steps of the training episodes, in order."""
    episodes = np.sort(split.train)
    ends = np.cumsum(dataset.lengths[episodes])
    if not len(ends):
        return np.zeros(0, dtype=np.int64)
    chosen = np.unique(np.linspace(0, ends[-1] - 1, count).astype(np.int64)) if count > 0 else np.zeros(0, np.int64)
    which = np.searchsorted(ends, chosen, side="right")
    # A step's place in its episode, counted from the episode's end among the chosen ones, gives its row in the data.
    return dataset.offsets[1:][episodes[which]] - (ends[which] - chosen)


def _distances(one: Float[Tensor, "R D"], other: Float[Tensor, "M D"]) -> Float[Tensor, "R M"]:
    # By differences rather than by products, which lose all digits of small distances.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
