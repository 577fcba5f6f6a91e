"""The sizes of a model around an existing transformer, which are given as numbers or follow from a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonObject


class SizesFromData(Protocol):
    """A dataset that knows the sizes of its model, such as `rl_transformer.utils.data.Dataset`."""

    def model_options(self) -> JsonObject:
        """Return fields of `DecisionTransformerConfig`."""
        ...


def model_sizes(
    state_dim: int | Sequence[int] | None, act_dim: int | None, dataset: SizesFromData | None
) -> JsonObject:
    """Return the fields of `DecisionTransformerConfig` that the arguments of `DecisionTransformer` determine.

    Raises:
        RLTransformerError: The sizes are given twice or not at all.
    """
    if dataset is not None:
        if state_dim is not None or act_dim is not None:
            raise RLTransformerError(
                "state_dim and act_dim follow from the dataset",
                where="DecisionTransformer",
                fix="pass either dataset, or state_dim and act_dim",
            )
        return dataset.model_options()
    if state_dim is None or act_dim is None:
        raise RLTransformerError(
            "state_dim or act_dim is missing", where="DecisionTransformer", fix="pass both, or pass dataset"
        )
    if isinstance(state_dim, int):
        return {"state_dim": state_dim, "act_dim": act_dim}
    # With images the length of a vector has no meaning; the configuration requires a positive one.
    return {"state_dim": 1, "image_shape": tuple(state_dim), "act_dim": act_dim}
