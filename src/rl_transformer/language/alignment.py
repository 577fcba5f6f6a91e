"""Align the policy's tokens with word embeddings (Reid et al. 2022, section 3.2: "similarity encouragement")."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.language.text import cached
from rl_transformer.models.huggingface.source import fingerprint

_KMEANS_SEED = 0  # fixed, not the run's: every seed of an experiment aligns with the same centroids


def word_centroids(words: Tensor, count: int) -> Tensor:
    """Return the k-means centroids of word embeddings, clustered by direction.

    The centroids are cached under a hash of the embeddings and of ``count``.

    Args:
        words: (V, E) word embeddings, on the CPU.
        count: Number of centroids C.

    Returns:
        (C, E) float32 unit vectors.

    Raises:
        RLTransformerError: There are fewer words than centroids, or scikit-learn is not installed.
    """
    if count > len(words):
        raise RLTransformerError(
            f"{count} centroids of {len(words)} words",
            where="language.alignment_centroids",
            fix=f"give {len(words)} or fewer",
        )
    require("sklearn", extra="lm", purpose="language.alignment_weight")

    def compute() -> np.ndarray:
        """Return the cluster centers: (count, width) float32."""
        from sklearn.cluster import MiniBatchKMeans

        # The loss compares directions only, by cosine. Among unit vectors the Euclidean distance that k-means minimizes
        # grows with the angle, so normalizing first clusters by direction as well.
        directions = F.normalize(words.float(), dim=1).numpy()
        kmeans: Any = MiniBatchKMeans  # its type stub allows a string for n_init only
        clusters = kmeans(count, random_state=_KMEANS_SEED, n_init=1, batch_size=4096).fit(directions)
        return clusters.cluster_centers_.astype(np.float32)

    key = f"centroids-{count}-{fingerprint({'words': words})}"
    # The mean of unit vectors is shorter than 1, and the loss needs cosines.
    return F.normalize(torch.from_numpy(cached(key, compute)), dim=1)


def alignment_loss(embedded: Tensor, centroids: Tensor, real: Tensor, num_real: float | None = None) -> Tensor:
    """Return the mean over real tokens of -max_j cos(token, centroid_j), a number from -1 to 1.

    Args:
        embedded: (B, L, E) tokens.
        centroids: (C, E) unit vectors.
        real: (B, L) bool, False at padded tokens, which have no influence, not even on the divisor.
        num_real: Divisor if these tokens are a shard of a larger batch.
    """
    nearest = (F.normalize(embedded.float(), dim=-1) @ centroids.T).amax(-1)
    return -torch.where(real, nearest, 0.0).sum() / (real.sum() if num_real is None else num_real)


def alignment_schedule(step: int, steps: int) -> float:
    """Return the factor of the alignment weight after ``step`` updates, a sigmoid from 0.993 to 0.007 at ``steps``.

    It is sigmoid((5000 - step) / 500 - 5) for 5,000 steps, as in the code of Reid et al., and stretched for others.
    """
    x = (steps - step) / (steps / 10) - 5
    return 1 / (1 + math.exp(-x)) if x > -500 else 0.0  # exp(-x) would overflow, in runs much longer than ``steps``
