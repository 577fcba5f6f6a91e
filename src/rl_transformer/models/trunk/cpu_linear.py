"""Float32 linear layers on CPUs, computed by oneDNN where that is faster.

PyTorch gives these matrix products to MKL. On AMD processors MKL takes twice as long as oneDNN with AVX-512, which PyTorch
ships and uses for bfloat16 (measured on an EPYC: 100 against 230 GFLOP/s per core, with the same rounding). So
oneDNN's operator is called here, as torch's own compiler calls it. Where the operator or AVX-512 is missing, or where
PyTorch must see the product (autocast, torch.func, torch.compile), the product is PyTorch's.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.functional import pad

from rl_transformer.runtime.shapes import Float

_onednn: Callable[..., Tensor] | None = None
if torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _onednn = torch.ops.mkldnn._linear_pointwise.default


def float32_products() -> str:
    """Return the library that computes our float32 products on this CPU: oneDNN, or whatever torch uses."""
    return "torch" if _onednn is None else "oneDNN"


def linear(x: Float[Tensor, "N I"], weight: Float[Tensor, "I O"], bias: Float[Tensor, "O"]) -> Float[Tensor, "N O"]:
    """Return x @ weight + bias."""
    if not _can_use_onednn(x, weight):
        return torch.addmm(bias, x, weight)
    # The operator has no derivative of its own.
    if torch.is_grad_enabled():
        return cast(Tensor, _Linear.apply(x, weight, bias))
    # oneDNN compiles a program for every number of rows (0.3 ms) and keeps it (0.5 MiB). Acting meets any number of
    # sessions at any length of their windows, and a server would grow by gigabytes. Training has few numbers of rows.
    rows = len(x)
    padded = rounded_rows(rows)
    return _product(pad(x, (0, 0, 0, padded - rows)) if padded > rows else x, weight, bias)[:rows]


def rounded_rows(rows: int) -> int:
    """Return how many rows are computed for ``rows``: the next power of two, or 5, 6 or 7 eighths of it."""
    step = 2 ** max(0, rows.bit_length() - 3)
    return -(-rows // step) * step


def _can_use_onednn(x: Tensor, weight: Tensor) -> bool:
    # Autocast, the compiler and torch.func rewrite PyTorch's own operators, and would miss this one.
    return (
        _onednn is not None
        and not torch.compiler.is_compiling()
        and len(x) > 0
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and not is_functorch_wrapped_tensor(weight)
    )


def _product(
    x: Float[Tensor, "N I"], weight: Float[Tensor, "I O"], bias: Float[Tensor, "O"] | None = None
) -> Float[Tensor, "N O"]:
    """Return x @ weight + bias."""
    assert _onednn is not None
    # Either factor may be transposed, but with a slice of columns oneDNN would be a thousand times slower.
    if not weight.is_contiguous() and not weight.t().is_contiguous():
        weight = weight.contiguous()
    return _onednn(x, weight.t(), bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`linear` together with its gradients, which are matrix products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; None for those that are not needed."""
        x, weight = ctx.saved_tensors
        # The gradient of a sum, for example, is one number expanded to a matrix.
        gradient = gradients[0].contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        # With gradients of gradients (create_graph) the products must be PyTorch's: oneDNN's have no derivative.
        product = torch.matmul if torch.is_grad_enabled() else _product
        weight_gradient = None
        if for_weight and x.shape[1] <= gradient.shape[1]:
            weight_gradient = product(x.t(), gradient)
        elif for_weight:  # oneDNN copies a transposed first factor, so the narrower one comes first
            weight_gradient = product(gradient.t(), x).t()
        x_gradient = product(gradient, weight.t()) if for_x else None
        return x_gradient, weight_gradient, gradient.sum(0) if for_bias else None
