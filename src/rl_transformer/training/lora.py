"""Freeze the trunk, or train a low-rank update of its attention weights only (LoRA, Hu et al. 2021)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.models.huggingface.trunk import HFTrunk
from rl_transformer.models.trunk.block import Attention

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer


class LowRank(nn.Module):
    """Adds the product of two low-rank matrices to a weight: W + A B with A (inputs, rank) and B (rank, outputs)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        # As in Hu et al. (section 4.1), one factor is random and the other zero: training starts from the pretrained
        # weights, and gradients reach B at once. With both zero neither factor would ever receive a gradient.
        self.a = nn.Parameter(torch.empty(inputs, rank))
        self.b = nn.Parameter(torch.zeros(rank, outputs))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


def apply_trunk_mode(model: nn.Module, trunk: str, rank: int) -> None:
    """Freeze the blocks of a model, and with ``lora`` add a trainable low-rank update to queries, keys and values.

    With ``lora`` the trainable parameters are those of LaMo (Shi et al. 2024): all of the embeddings and heads, but
    only the low-rank update of the blocks.

    Args:
        model: A Decision Transformer; changed in place.
        trunk: full, frozen or lora.
        rank: Rank of the update.

    Raises:
        RLTransformerError: The blocks have no attention that a low-rank update could be added to.
    """
    if trunk == "full":
        return
    encoder = model.get_submodule("encoder")
    encoder.requires_grad_(False)
    if trunk == "lora" and isinstance(encoder, HFTrunk):
        _add_lora(encoder, rank)
    elif trunk == "lora":
        # A parametrization leaves the attention code unchanged: reading c_attn.weight returns the updated weight.
        # The list comes first, because registering changes the module tree that is being walked.
        for attention in [module for module in encoder.modules() if isinstance(module, Attention)]:
            inputs, outputs = attention.c_attn.weight.shape
            parametrize.register_parametrization(attention.c_attn, "weight", LowRank(inputs, outputs, rank))
    if trunk == "lora" and not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise RLTransformerError(
            f"the trunk {type(encoder).__name__} has no attention that LoRA could update",
            where="training.trunk",
            fix="use full or frozen",
        )


def merge_lora(model: nn.Module) -> None:
    """Merge low-rank updates into the weights, in place; the outputs stay the same.

    A saved policy is therefore a plain model that loads without peft and acts as fast as one trained in full.
    """
    for name, module in list(model.named_modules()):
        if hasattr(module, "get_base_layer"):  # one of peft's adapters, which wrap a layer
            layer = cast("BaseTunerLayer", module)
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
        if parametrize.is_parametrized(module):  # one of our own `LowRank`
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _add_lora(trunk: HFTrunk, rank: int) -> None:
    """Add peft's adapters to a transformers model, at peft's default layers for its architecture."""
    require("peft", extra="lm", purpose="training.trunk lora")
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS

    stack = trunk.stack
    kind = stack.config.model_type
    # peft gets the full name of every layer, so that single layers can be left out below. Where it has no default for
    # an architecture, all linear layers are adapted; embeddings have two-dimensional weights, too, and are no choice.
    linear = {n: m for n, m in stack.named_modules() if getattr(m, "weight", torch.empty(0)).dim() == 2}
    linear = {n: m for n, m in linear.items() if not isinstance(m, nn.Embedding)}
    named = TARGETS.get(kind)
    chosen = [n for n in linear if named is None or n.rpartition(".")[2] in named]
    if "mamba" in kind:  # Mamba's fused kernels read these weights directly, so an adapter would have no effect
        chosen = [n for n in chosen if not n.endswith(("out_proj", "dt_proj"))]
    # GPT-2's Conv1D stores its weight as (inputs, outputs), the transpose of a linear layer's.
    is_conv1d = any(type(linear[n]).__name__ == "Conv1D" for n in chosen)
    # lora_alpha equal to the rank scales the update by 1, as our own LowRank does.
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen, fan_in_fan_out=is_conv1d)
    inject_adapter_in_model(config, stack)
