"""Convert a language model from a GGUF file, once, to a folder of safetensors that ``model.trunk`` takes.

A GGUF file holds numbers and texts, no code. transformers reads it and computes plain float32 weights from the quantized ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.language.first_blocks import keep_first_blocks, write_language_model
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.types import JsonObject

_FIX = "name a GGUF file of a causal language model that transformers knows, such as one of Llama's architecture"
_NAME = "model.gguf"


def import_gguf(file: str | Path, folder: str | Path, *, blocks: int | None = None) -> JsonObject:
    """Write a language model and its tokenizer as ``folder``, and return a description of it.

    Args:
        file: The GGUF file.
        folder: Folder to write; it must not exist, or be empty.
        blocks: Keep the first blocks only; None: all. The head is kept too, but was not trained for them.

    Returns:
        A JSON-ready dict: ``architecture``; ``quantization``, the number format of most weights in the file; ``formats``,
        the number of weights in each; ``blocks``, ``blocks_in_file``, ``width`` and ``parameters``.

    Raises:
        RLTransformerError: A package is not installed, the file is not such a model, has fewer blocks, or the folder exists.
    """
    require("transformers", extra="lm", purpose="rlt pretrain import")
    require("gguf", extra="lm", purpose="rlt pretrain import")
    require("accelerate", extra="lm", purpose="rlt pretrain import")
    path = user_path(file)
    if not path.is_file():
        raise RLTransformerError("no such file", where=path, fix=_FIX)
    with _translate_errors(path):
        formats = _count_formats(path)
        model, tokenizer = _load(path)
    in_file = int(model.config.num_hidden_layers)
    if blocks is not None:
        keep_first_blocks(model, blocks, where="--blocks")
    write_language_model(model, tokenizer, user_path(folder))
    return {
        "architecture": model.config.model_type,
        "quantization": max(formats, key=formats.__getitem__),
        "formats": formats,
        "blocks": int(model.config.num_hidden_layers),
        "blocks_in_file": in_file,
        "width": int(model.config.hidden_size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _count_formats(path: Path) -> dict[str, int]:
    """Return the number of weights in each number format of the file."""
    from gguf import GGUFReader

    formats: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        formats[tensor.tensor_type.name] += int(tensor.n_elements)
    if not formats:
        raise RLTransformerError("holds no weights", where=path, fix=_FIX)
    return dict(formats)


def _load(path: Path) -> tuple[Any, Any]:
    """Return the model in float32, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers reads a folder, and looks at other files in it: here it finds this file and nothing else.
    with TemporaryDirectory() as alone:
        os.symlink(path.resolve(), Path(alone) / _NAME)
        automatic = cast(Any, AutoModelForCausalLM)  # its type stub does not know output_loading_info
        model, report = automatic.from_pretrained(alone, gguf_file=_NAME, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=_NAME)
    absent = sorted(report["missing_keys"])
    if absent:
        # transformers fills them with random numbers, and a trunk that is partly random would look like a pretrained one.
        raise RLTransformerError(f"lacks the weights {absent[0]}", where=path, fix=_FIX)
    # The weights are plain numbers now. Left there, these would say that they are quantized, and refuse to be saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.name_or_path = ""
    model.config.architectures = [type(model).__name__]
    return model, tokenizer


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn any error that the reading libraries raise into one message with a fix."""
    try:
        yield
    except RLTransformerError:
        raise
    except Exception as error:  # the file may hold anything
        first = " ".join(str(error).split())[:300]
        raise RLTransformerError(f"cannot be read as a GGUF model: {first}", where=path, fix=_FIX) from None
