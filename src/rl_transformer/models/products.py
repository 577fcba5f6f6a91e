"""Linear layers in float32 on CPUs.

PyTorch gives such products to MKL. On AMD's processors that takes twice as long as oneDNN with AVX-512, which PyTorch
brings along and uses for bfloat16 (measured on an EPYC: 100 against 230 GFLOP/s a core, the same rounding). So
oneDNN's operator is called here, as torch's own compiler calls it. Where it or AVX-512 is missing, or where others
must look into the product (autocast, torch.func, torch.compile), the product is PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_onednn: Any = None
if torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _onednn = torch.ops.mkldnn._linear_pointwise.default


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight + bias: (rows, inputs), (inputs, outputs), (outputs,) -> (rows, outputs)."""
    if not _takes(x, weight):
        return torch.addmm(bias, x, weight)
    if torch.is_grad_enabled():
        return _Affine.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return _product(x, weight, bias)


def _takes(x: Tensor, weight: Tensor) -> bool:
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
    """Return x @ weight + bias. Either factor may be transposed, but a slice of columns is a thousand times slower."""
    if not weight.is_contiguous() and not weight.t().is_contiguous():
        weight = weight.contiguous()
    return _onednn(x, weight.t(), bias, "none", [], "")


class _Affine(torch.autograd.Function):
    """`affine` with its gradients, which are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias, None where none is needed."""
        x, weight = ctx.saved_tensors
        gradient, (for_x, for_weight, for_bias) = gradients[0].contiguous(), ctx.needs_input_grad
        # With gradients of gradients (create_graph) the products must be PyTorch's: oneDNN's have no derivative.
        product = torch.matmul if torch.is_grad_enabled() else _product
        by_weight = None
        if for_weight and x.shape[1] <= gradient.shape[1]:
            by_weight = product(x.t(), gradient)
        elif for_weight:  # oneDNN copies a first factor that is transposed: here too it is the narrower one
            by_weight = product(gradient.t(), x).t()
        by_x = product(gradient, weight.t()) if for_x else None
        return by_x, by_weight, gradient.sum(0) if for_bias else None
