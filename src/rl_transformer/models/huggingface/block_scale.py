"""Measure how much the blocks of a language model change the tokens that a policy would pass to them at first."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import functional as F

from rl_transformer.models.huggingface.source import TrunkSource, width_of

_TOKENS = (16, 30)


@torch.inference_mode()
def block_scale(name: str, weights: str, seed: int = 0) -> float:
    """Return the root mean square of what the blocks of a GPT-2 add to normalized random tokens.

    The tokens have a mean square of 1, as those of a policy after its layer norm at the start of training: a large
    value means that little of the observation is left in what the head reads.

    Args:
        name: Folder of a GPT-2.
        weights: pretrained, random or shuffled, as ``model.trunk_weights``.
        seed: Seed of the tokens, and of random and shuffled weights.
    """
    source = TrunkSource.from_name(name)
    model = cast(Any, source.load(weights, seed, head=False).eval())
    tokens = torch.randn((*_TOKENS, width_of(source.config)), generator=torch.Generator().manual_seed(seed))
    tokens = F.layer_norm(tokens, tokens.shape[-1:])
    model.wpe.weight.zero_()  # a policy does not use the positions
    outputs: list[torch.Tensor] = []
    handle = model.h[-1].register_forward_hook(
        lambda block, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    model(inputs_embeds=tokens)
    handle.remove()
    return float((outputs[0] - tokens).square().mean().sqrt())
