"""A model repository of NVIDIA's Triton Inference Server around an exported ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rl_transformer.export.interface import Port
from rl_transformer.runtime.files import write_text

_NAME = "policy"
_MOST_EPISODES = 256
_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


def write_repository(folder: Path, network: Path, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Write a model repository with one model, which Triton may compute in batches: ``tritonserver --model-repository``.

    Windows of different lengths are padded by the client to one length, so that their requests can share a batch.
    """
    version = folder / _NAME / "1"
    version.mkdir(parents=True)
    shutil.copyfile(network, version / "model.onnx")
    write_text(folder / _NAME / "config.pbtxt", config(inputs, outputs))


def config(inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Return the text of config.pbtxt."""
    return "\n".join(
        [
            f'name: "{_NAME}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {_MOST_EPISODES}",
            *_tensors("input", inputs),
            *_tensors("output", outputs),
            "dynamic_batching { max_queue_delay_microseconds: 1000 }",
            "",
        ]
    )


def _tensors(kind: str, ports: Sequence[Port]) -> list[str]:
    """Return the lines of inputs or outputs; Triton leaves the axis of the batch out."""
    lines = []
    for port in ports:
        sizes = [-1 if isinstance(size, str) else size for size in port.shape[1:]]
        # A tensor without further axes is declared with one of size 1, which is removed again for the model.
        reshape = "" if sizes else " reshape: { shape: [ ] }"
        dims = ", ".join(map(str, sizes or [1]))
        lines.append(f'{kind} [{{ name: "{port.name}" data_type: {_TYPES[port.dtype]} dims: [ {dims} ]{reshape} }}]')
    return lines
