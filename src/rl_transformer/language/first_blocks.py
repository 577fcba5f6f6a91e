"""Keep the first blocks of a language model, which make a smaller trunk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from rl_transformer.errors import RLTransformerError
from rl_transformer.models.huggingface.source import TrunkSource
from rl_transformer.runtime.files import write_folder, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def copy_first_blocks(source: str | Path, folder: Path, blocks: int) -> None:
    """Write a trunk that has only the first blocks of a language model.

    Args:
        source: Folder of the language model, as `rlt pretrain import` writes it.
        folder: Folder to write; it must not exist, or be empty.
        blocks: Blocks to keep.

    Raises:
        RLTransformerError: The source cannot be read, has fewer blocks, or the folder exists.
    """
    model = cast("PreTrainedModel", TrunkSource.from_name(str(source)).load("pretrained", 0, head=True))
    keep_first_blocks(model, blocks, where=str(source))
    write_language_model(model, None, folder)


def keep_first_blocks(model: PreTrainedModel, count: int, *, where: str) -> None:
    """Leave out all blocks but the first ``count``, in place.

    Args:
        model: A language model of transformers.
        count: Blocks to keep.
        where: Name of the model in error messages.

    Raises:
        RLTransformerError: The model has fewer blocks, or they are not one list.
    """
    total = int(model.config.num_hidden_layers)
    if not 1 <= count <= total:
        raise RLTransformerError(f"{count} of {total} blocks", where=where, fix=f"give 1 to {total}")
    lists = {
        name: child
        for name, child in model.base_model.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total
    }
    if len(lists) != 1:
        kind = model.config.model_type
        raise RLTransformerError(f"the blocks of {kind} are not one list", where=where, fix="leave --blocks out")
    ((name, kept),) = lists.items()
    setattr(model.base_model, name, kept[:count])
    model.config.num_hidden_layers = count
    for key, value in list(vars(model.config).items()):
        if key == "layer_types" and isinstance(value, list):  # the kind of attention of each block
            setattr(model.config, key, value[:count])


def write_language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a model, and a tokenizer if there is one, as a folder of safetensors and JSON.

    Raises:
        RLTransformerError: The folder has content, or cannot be written.
    """
    tensor_names = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}

    def fill(temporary: Path) -> None:
        model.config.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        # A parameter with two names (word embeddings, tied output layer) is listed, and written, once.
        tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name in tensor_names}
        write_tensors(temporary / "model.safetensors", tensors)

    write_folder(folder, fill, replace=False)
