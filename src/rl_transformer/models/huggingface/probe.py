"""Try out a Hugging Face trunk on a few random tokens when it is built.

The name of an architecture does not say whether it is causal. So one token is changed, and the outputs before it
are compared; and gradients show which weights the outputs depend on at all.

Shapes: B windows, L tokens, Q query tokens, E width of a token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.huggingface.position_tables import is_switchable
from rl_transformer.runtime.shapes import Float

MAX_TOKENS = 8


class ProbedTrunk(Protocol):
    """The part of a trunk that the probe uses."""

    training: bool
    width: int

    @property
    def stack(self) -> nn.Module:
        """Return the transformer's blocks."""
        ...

    def train(self, mode: bool = True) -> object:
        """Switch training mode."""
        ...

    def hidden_at(self, tokens: Float[Tensor, "B L E"], positions: slice) -> Float[Tensor, "B Q E"]:
        """Return the last hidden state at some positions."""
        ...

    def error(self, problem: str) -> RLTransformerError:
        """Return an error that names the transformer."""
        ...


def probe(trunk: ProbedTrunk, length: int) -> None:
    """Check that a trunk is causal and deterministic, and drop the weights that no token uses.

    Args:
        trunk: The trunk; its unused parameters are emptied in place.
        length: Number of tokens, at most `MAX_TOKENS`.

    Raises:
        RLTransformerError: It is not causal, not deterministic, or does not take embedded tokens alone.
    """
    was_training = trunk.training
    trunk.train(False)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, length, trunk.width, generator=random)
    changed = tokens.clone()
    changed[:, length // 2] = torch.randn(trunk.width, generator=random)
    everywhere = slice(None)
    parameters = dict(trunk.stack.named_parameters())
    try:
        with torch.enable_grad():
            hidden = trunk.hidden_at(tokens, everywhere)
            used = torch.autograd.grad(hidden.square().sum(), list(parameters.values()), allow_unused=True)
        repeated = trunk.hidden_at(tokens, everywhere)
        difference = (trunk.hidden_at(changed, everywhere) - hidden).abs().amax((0, 2))
    except RLTransformerError:
        raise
    except Exception as error:  # an unknown architecture may fail in any way
        raise trunk.error(f"does not take embedded tokens alone ({type(error).__name__}: {error})") from None
    # Written so that NaN fails too. The tolerance is relative: architectures differ in the size of their outputs.
    if hidden.shape[2] != trunk.width or not difference[: length // 2].max() <= 1e-4 * hidden.abs().max():
        raise trunk.error("is not causal: a token changes what comes before it")
    if not torch.allclose(repeated, hidden, atol=1e-5):
        raise trunk.error("does not compute the same output twice")
    _drop_unused(trunk.stack, dict(zip(parameters, [gradient is not None for gradient in used], strict=True)))
    trunk.train(was_training)


def _drop_unused(stack: nn.Module, used: dict[str, bool]) -> None:
    """Empty and freeze the parameters that are not used, such as the token table and cross-attention."""
    # They would only fill policy files and the optimizer.
    tables = {id(table.weight) for table in stack.modules() if isinstance(table, nn.Embedding) and is_switchable(table)}
    for name, parameter in stack.named_parameters():
        # Tokens other than these may be routed to other experts of a mixture.
        if used[name] or "expert" in name:
            continue
        parameter.requires_grad_(False)
        if id(parameter) not in tables:  # a position table that is switched off now may be switched on
            parameter.data = parameter.new_empty(0)
