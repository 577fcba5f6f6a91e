"""Trace an exported policy's modules to ONNX files, and quantize these."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.export.graph import PolicyModule
from rl_transformer.export.interface import BATCH, TIME, Port

if TYPE_CHECKING:
    import onnx

_OPSET = 20
_LARGEST_FILE = 2**31 - 1  # bytes of a protocol buffer
# Sizes at which the graph is traced; neither may be 1, which a tracer takes for a constant.
_EXAMPLE_SIZES = {BATCH: 2, TIME: 3}


def require_onnx() -> None:
    """Raise an error that says how to install what exporting needs, unless it is installed."""
    require("onnx", extra="export", purpose="exporting a policy")
    require("onnxscript", extra="export", purpose="exporting a policy")
    require("onnxruntime", extra="export", purpose="exporting a policy")


def example_inputs(inputs: Sequence[Port]) -> dict[str, torch.Tensor]:
    """Return tensors of the inputs' shapes and dtypes."""
    made = {}
    for port in inputs:
        shape = [_EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in port.shape]
        filled = np.ones if port.name in ("lengths", "allowed") else np.zeros
        made[port.name] = torch.from_numpy(filled(shape, port.dtype))
    return made


def dynamic_shapes(inputs: Sequence[Port]) -> dict[str, dict[int, Any]]:
    """Return which axes of the inputs may have any size."""
    return {
        port.name: {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(port.shape) if isinstance(size, str)}
        for port in inputs
    }


def trace(module: PolicyModule, inputs: Sequence[Port]) -> torch.export.ExportedProgram:
    """Return the module as a program of torch.export, with the names of the inputs.

    Raises:
        RLTransformerError: A part of the model cannot be traced.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the tracer's own deprecated calls
            return torch.export.export(
                module.eval(), (), example_inputs(inputs), dynamic_shapes=dynamic_shapes(inputs), strict=False
            )
    except Exception as error:
        raise _untraceable(error) from error


def to_onnx(program: torch.export.ExportedProgram, inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
    """Return an ONNX model of a traced program.

    Raises:
        RLTransformerError: ONNX has no counterpart of a part of the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # which extensions it has not found
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=_OPSET,
                input_names=[port.name for port in inputs],
                output_names=[port.name for port in outputs],
                verbose=False,
            )
        assert converted is not None
        model = converted.model_proto
    except Exception as error:
        raise _untraceable(error) from error
    return _plain(model, inputs, outputs)


def _plain(model: onnx.ModelProto, inputs: Sequence[Port], outputs: Sequence[Port]) -> onnx.ModelProto:
    """Return a model without the names of files and functions of this machine, and with names of its dynamic axes."""
    import onnx

    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.producer_name = "rl_transformer"
    model.graph.name = "policy"
    named = {port.name: port for port in (*inputs, *outputs)}
    for value in (*model.graph.input, *model.graph.output):
        port = named[value.name]
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
        value.CopyFrom(onnx.helper.make_tensor_value_info(port.name, element, list(port.shape)))
    onnx.checker.check_model(model)
    return model


def write_onnx(path: Path, model: onnx.ModelProto) -> None:
    """Write a model as a single file.

    Raises:
        RLTransformerError: It is too large for one.
    """
    if model.ByteSize() > _LARGEST_FILE:
        raise RLTransformerError(
            f"the model takes {model.ByteSize():,} bytes, and an ONNX file holds {_LARGEST_FILE:,}",
            where="export",
            fix="act in Python, or export a smaller model",
        )
    path.write_bytes(model.SerializeToString(deterministic=True))


def quantize(source: Path, target: Path) -> None:
    """Write a copy of an ONNX file whose matrix products are of int8 weights (dynamic quantization)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("root").setLevel(logging.ERROR)
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def _untraceable(error: Exception) -> RLTransformerError:
    reason = " ".join(str(error).split())[:300]
    return RLTransformerError(
        f"a part of this policy's model cannot be exported: {type(error).__name__}: {reason}",
        where="export",
        fix="act in Python, rl_transformer.load_policy(RUN).session(); parts of plugins must be traceable by torch.export",
    )
