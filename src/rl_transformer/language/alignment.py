"""Alignment of tokens with word embeddings (Reid et al. 2022, section 3.2: "similarity encouragement")."""

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

_KMEANS_SEED = 0


def word_centroids(words: Tensor, count: int) -> Tensor:
    """Return ``count`` unit vectors, the k-means centroids of the word embeddings (V, E) by direction.

    The result is cached under a hash of the embeddings and of ``count``.

    Raises:
        RLTransformerError: Fewer words than centroids.
    """
    if count > len(words):
        raise RLTransformerError(
            f"{count} centroids of {len(words)} words",
            where="language.alignment_centroids",
            fix=f"give {len(words)} or fewer",
        )
    require("sklearn", extra="lm", purpose="language.alignment_weight")

    def compute() -> np.ndarray:
        from sklearn.cluster import MiniBatchKMeans

        # Directions alone: k-means over unit vectors is k-means by cosine distance.
        directions = F.normalize(words.float(), dim=1).numpy()
        kmeans: Any = MiniBatchKMeans  # its type stub has n_init as text only
        found = kmeans(count, random_state=_KMEANS_SEED, n_init=1, batch_size=4096).fit(directions)
        return found.cluster_centers_.astype(np.float32)

    key = f"centroids-{count}-{fingerprint({'words': words})}"
    return F.normalize(torch.from_numpy(cached(key, compute)), dim=1)


def alignment_loss(embedded: Tensor, centroids: Tensor, real: Tensor, num_real: float | None = None) -> Tensor:
    """Return the mean over real tokens of -max_j cos(token, centroid_j).

    Args:
        embedded: (B, L, E) tokens.
        centroids: (C, E) unit vectors.
        real: (B, L) bool; padded tokens have no weight, not even in the divisor.
        num_real: Divisor, if these tokens are a part of a larger batch.
    """
    nearest = (F.normalize(embedded.float(), dim=-1) @ centroids.T).amax(-1)
    return -torch.where(real, nearest, 0.0).sum() / (real.sum() if num_real is None else num_real)


def alignment_schedule(step: int, steps: int) -> float:
    """Return the factor of the alignment weight after ``step`` updates: 0.993 at first, 0.007 at ``steps``.

    That is sigmoid((5000 - step) / 500 - 5), as Reid et al.'s code has it for 5,000 steps.
    """
    x = (steps - step) / (steps / 10) - 5
    return 1 / (1 + math.exp(-x)) if x > -500 else 0.0  # exp overflows below
