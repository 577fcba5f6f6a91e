"""Text as sequences of tokens: a file or a folder of *.txt, read once, drawn by (seed, step)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import translate_write_errors
from rl_transformer.runtime.random_streams import Stream, generator

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PART = 1 << 20  # characters tokenized at a time


def read_text(place: str | Path) -> str:
    """Return the text of a file, or of all *.txt of a folder in the order of their names.

    Raises:
        RLTransformerError: Nothing there, or bytes that are not UTF-8.
    """
    path = Path(place)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise RLTransformerError("holds no text", where=path, fix="name a text file, or a folder of *.txt files")
    try:
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    except UnicodeDecodeError as error:
        raise RLTransformerError(f"is not UTF-8: {error}", where=path, fix="convert it to UTF-8") from None
    if not text.strip():
        raise RLTransformerError("holds nothing but white space", where=path, fix="name a file with text in it")
    return text


def tokenized(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of a text, (N,) int32, from the cache if they were computed before.

    ``tokenizer`` is one of the tokenizers library, as `load_tokenizer` returns it.
    """
    identity = hashlib.sha256(text.encode())
    identity.update(tokenizer.to_str().encode())

    def compute() -> np.ndarray:
        parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
        encoded = tokenizer.encode_batch(parts, add_special_tokens=False)
        return np.concatenate([np.asarray(part.ids, np.int32) for part in encoded])

    return cached(f"tokens-{identity.hexdigest()}", compute)


def cached(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the cached array of this name, or compute it; the name must be a hash of all it depends on."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_transformer"
    path = root / f"{name}.npy"
    if path.is_file():
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError):
            pass  # cut short, for example by a full disk: it is computed again
    array = compute()
    with translate_write_errors(path):
        root.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{name}.{os.getpid()}.tmp.npy")
        np.save(aside, array, allow_pickle=False)
        aside.rename(path)
    return array


class TextSequences:
    """Sequences of ``length`` tokens from a long text, as a `BatchSource`; a sequence may begin at any token.

    Shapes: B sequences, L tokens.
    """

    def __init__(self, tokens: np.ndarray, *, length: int, batch_size: int, seed: int, device: torch.device) -> None:
        if len(tokens) < length:
            raise RLTransformerError(
                f"{len(tokens)} tokens are fewer than a sequence of {length}",
                where="text",
                fix="use more text, or shorter sequences",
            )
        self.tokens = tokens
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def draw(self, step: int) -> np.ndarray:
        """Return where the sequences of update ``step`` begin: (B,)."""
        random = generator(Stream.TEXT, self.seed, step)
        return random.integers(0, len(self.tokens) - self.length + 1, self.batch_size)

    def gather(self, index: np.ndarray) -> Tensor:
        """Return the sequences that begin at ``index`` (B,): (B, L) int64."""
        places = index[:, None] + np.arange(self.length)
        return torch.from_numpy(self.tokens[places].astype(np.int64)).to(self.device)

    def count_valid(self, index: np.ndarray) -> int:
        """Return the number of tokens that are predicted."""
        return len(index) * (self.length - 1)

    def describe(self, index: np.ndarray) -> str:
        """Return where the sequences begin in the text."""
        return f"tokens from {', '.join(map(str, index[:20].tolist()))}"
