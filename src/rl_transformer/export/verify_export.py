"""Verify an export. Its files may come from anywhere: nothing of them is run but the network, after it was checked."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.export.onnx_file import require_onnx
from rl_transformer.export.promises import Report, broken
from rl_transformer.export.rules import FORMAT, FORMAT_VERSION
from rl_transformer.export.write import GOLDEN, QUANTIZED, RULES, WINDOW, measure_difference
from rl_transformer.runtime.files import verify_folder
from rl_transformer.runtime.reading import check_format, read_bytes, read_json
from rl_transformer.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    import onnx

_FIX = "restore the folder from a copy, or export the policy again"
_OWN_DOMAINS = ("", "ai.onnx", "com.microsoft")  # the last one is onnxruntime's, of quantized products
_FIELDS = ("observation", "action", "conditions", "files", "golden", "target", "default_target", "window_length")


def is_export(folder: Path) -> bool:
    """Return True if a folder holds an export, and no policy."""
    return (folder / WINDOW).exists() or (folder / GOLDEN).exists()


def verify_export(folder: Path) -> Report:
    """Return the promises of an export."""
    require_onnx()
    report = Report(str(folder))
    rules: JsonObject = {}

    def read_rules() -> str:
        rules.update(_read_rules(folder))
        return f"version {rules['format_version']} of the format, {', '.join(sorted(rules['files']))}"

    holds = report.check("its files are those that were written (SHA-256)", lambda: _check_files(folder))
    if not (report.check("its rules are complete and of a known format", read_rules) and holds):
        return report
    for name in sorted(rules["files"]):
        inside = report.check(
            f"{name} holds its own numbers, no NaN, and standard operators only",
            lambda name=name: _check_network(folder / name, rules["files"][name]),
        )
        if inside:
            report.check(f"{name} repeats the recorded actions", lambda name=name: _check_golden(folder, name, rules))
    return report


def _check_files(folder: Path) -> str:
    files = verify_folder(folder, required=(RULES, GOLDEN, WINDOW))["files"]
    return f"{len(files)} files, {sum(file['bytes'] for file in files.values()):,} bytes"


def _read_rules(folder: Path) -> JsonObject:
    """Return policy.json after a check of what the other checks read."""
    where = folder / RULES
    rules = read_json(where, fix=_FIX)
    if rules.get("format") != FORMAT:
        raise broken("is not the policy.json of an export", where)
    check_format(rules, FORMAT_VERSION, where=where)
    missing = [name for name in _FIELDS if name not in rules]
    if missing or not isinstance(rules["files"], dict) or WINDOW not in rules["files"]:
        raise broken(f"lacks {', '.join(missing) or WINDOW}", where)
    unsafe = [name for name in rules["files"] if Path(name).name != name or not name.endswith(".onnx")]
    if unsafe:
        raise broken(f"names {unsafe[0]!r}, which is not an ONNX file in its folder", where)
    return rules


def _check_network(path: Path, described: object) -> str:
    """Return the size of a network after a check of everything in its file."""
    import onnx

    content = read_bytes(path, fix=_FIX)
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:  # of protobuf, or of the checker
        raise broken(f"is not a valid ONNX file: {str(error)[:200]}", path) from None
    ports = [*model.graph.input, *model.graph.output]
    found = [(port.name, _dtype(port)) for port in ports]
    values = described if isinstance(described, Mapping) else {}
    declared = [
        (port.get("name"), port.get("dtype")) for side in ("inputs", "outputs") for port in values.get(side, ())
    ]
    if found != declared:
        raise broken("has other inputs and outputs than policy.json says", path)
    count = 0
    for graph in _graphs(model):
        foreign = sorted({node.domain for node in graph.node} - set(_OWN_DOMAINS))
        if foreign:
            raise broken(f"uses operators of {', '.join(foreign)}", path)
        for tensor in graph.initializer:
            count += _check_tensor(tensor, path)
    return f"{count:,} numbers, opset {model.opset_import[0].version}, {len(model.graph.node)} operators"


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> int:
    """Return the number of elements of a tensor that is in the file itself and finite."""
    import onnx

    # A tensor elsewhere could be any file of this machine.
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise broken(f"the numbers of {tensor.name} are in another file", path)
    array = onnx.numpy_helper.to_array(tensor)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise broken(f"{tensor.name} holds NaN", path)
    return array.size


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph of a model and those inside of its operators."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


def _dtype(port: onnx.ValueInfoProto) -> str:
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type))


def _check_golden(folder: Path, name: str, rules: JsonMapping) -> str:
    """Return how far a network's actions are from the recorded ones."""
    try:
        content = read_bytes(folder / GOLDEN, fix=_FIX)
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            steps = {key: stored[key] for key in stored.files}
        measured = measure_difference(folder, name, steps)
        stated = rules["files"][name]["largest_difference"] if name == QUANTIZED else 0.0
        tolerance = max(float(rules["golden"]["tolerance"]), float(stated))
    except RLTransformerError:
        raise
    except Exception as error:  # policy.json and golden.npz may hold anything; none of it is run
        raise broken(f"cannot be replayed: {type(error).__name__}: {str(error)[:200]}", folder / name) from None
    figure = f"{len(steps['actions'])} steps, largest difference {measured['largest_difference']:.2g}"
    # Written so that a difference of NaN is no agreement. Another processor may round the quantized products differently.
    if not measured["largest_difference"] <= tolerance * (1.01 if name == QUANTIZED else 1.0):
        raise broken(f"{figure}, more than {tolerance:g}", folder / name)
    return figure
