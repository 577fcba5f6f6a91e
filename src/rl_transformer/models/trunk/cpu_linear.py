"""Float32 linear layers on CPUs, by oneDNN where that is faster.

PyTorch gives these matrix products to MKL. On AMD processors MKL takes twice as long as oneDNN with AVX-512, which PyTorch
ships and uses for bfloat16 (measured on an EPYC: 100 against 230 GFLOP/s per core, with the same rounding). So
oneDNN's operator is called here, as torch's own compiler calls it. Where the operator or AVX-512 is missing, or where
PyTorch must see the product (autocast, torch.func, torch.compile), the product is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_onednn: Any = None
if torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _onednn = torch.ops.mkldnn._linear_pointwise.default


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight + bias: (rows, inputs), (inputs, outputs), (outputs,) -> (rows, outputs)."""
    if not _can_use_onednn(x, weight):
        return torch.addmm(bias, x, weight)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return _product(x, weight, bias)


def _can_use_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _onednn is not None
        and len(x) > 0
        and x.dtype == weight.dtype == torch.float32
        and x.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(weight)  # pyright: ignore[reportAttributeAccessIssue]
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight + bias. Either factor may be transposed; a slice of columns would be a thousand times slower."""
    if not weight.is_contiguous() and not weight.t().is_contiguous():
        weight = weight.contiguous()
    return _onednn(x, weight.t(), bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`linear` with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias, None where none is needed."""
        x, weight = ctx.saved_tensors
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
