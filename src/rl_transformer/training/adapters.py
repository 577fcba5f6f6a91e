"""Which part of the trunk is trained: all of it, none, or a low-rank change of its attention (LoRA, Hu et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rl_transformer.models.gpt2 import Attention


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight; zero at first."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(inputs, rank))
        self.b = nn.Parameter(torch.zeros(rank, outputs))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


def adapt_trunk(model: nn.Module, trunk: str, rank: int) -> None:
    """Freeze the blocks of a model, and with ``lora`` put a trainable low-rank change on queries, keys and values.

    That is the split of LaMo (Shi et al. 2024): embeddings and heads learn in full, of the blocks only
    the change learns.

    Args:
        model: A Decision Transformer; changed in place.
        trunk: full, frozen or lora.
        rank: Rank of the change.
    """
    if trunk == "full":
        return
    encoder = model.get_submodule("encoder")
    encoder.requires_grad_(False)
    if trunk == "lora":
        for attention in [module for module in encoder.modules() if isinstance(module, Attention)]:
            inputs, outputs = attention.c_attn.weight.shape
            parametrize.register_parametrization(attention.c_attn, "weight", LowRank(inputs, outputs, rank))


def merge_trunk(model: nn.Module) -> None:
    """Write low-rank changes into the weights: the same numbers, and a plain model to deploy."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
