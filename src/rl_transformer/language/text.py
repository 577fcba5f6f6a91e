"""Read text and provide it as sequences of tokens, drawn by (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import translate_write_errors, verify_folder, write_array, write_folder
from rl_transformer.runtime.lock import waiting_lock
from rl_transformer.runtime.paths import cache_folder, user_path
from rl_transformer.runtime.random_streams import Stream, generator

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Characters per part. The tokenizers library processes the parts of a batch in parallel. A part may end inside a word,
# which costs one unusual token per million characters.
_PART = 1 << 20
_CACHED = "array.npy"


def read_text(place: str | Path) -> str:
    """Return the text of a file, or of all *.txt files of a folder, sorted by name and joined by line breaks.

    Raises:
        RLTransformerError: There is no such file, no text in it, or it is not UTF-8.
    """
    path = user_path(place)
    # Sorted, because the order of a directory listing differs between file systems, and the tokens depend on it.
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

    Args:
        text: Any text.
        tokenizer: A tokenizer of the tokenizers library, as `load_tokenizer` returns it.
    """
    # Text and tokenizer together decide the tokens, so the cache key is a hash of both. A file name or date is not
    # enough: an edited file would silently yield old tokens.
    identity = hashlib.sha256(text.encode())
    identity.update(tokenizer.to_str().encode())

    def compute() -> np.ndarray:
        parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
        encoded = tokenizer.encode_batch(parts, add_special_tokens=False)
        return np.concatenate([np.asarray(part.ids, np.int32) for part in encoded])

    return cached(f"tokens-{identity.hexdigest()}", compute)


def cached(name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the cached array of this name, or compute and cache it.

    Args:
        name: Name of the cache entry; it must contain a hash of everything that the array depends on, because cached
            arrays are never invalidated.
        compute: Returns the array.

    Raises:
        RLTransformerError: The cache cannot be written.
    """
    root = cache_folder()
    folder = root / name
    # Several processes may fill the cache at the same time, for example the seeds of an experiment.
    with translate_write_errors(folder), waiting_lock(root / f"{name}.lock"):
        try:
            # Compared with its hash, because other content of the right type would silently train another model.
            verify_folder(folder, required=(_CACHED,))
            return np.load(folder / _CACHED, allow_pickle=False)
        except (RLTransformerError, ValueError, EOFError):
            pass  # absent, incomplete or damaged: the array is computed again
        array = compute()
        write_folder(folder, lambda temporary: write_array(temporary / _CACHED, array))
    return array


class TextSequences:
    """Draws sequences from a long text; a `BatchSource`. A sequence may begin at any token.

    Shapes: B sequences, L tokens.

    Args:
        tokens: (N,) tokens of the text.
        length: L.
        batch_size: B, sequences per update.
        seed: Seed of the run.
        device: Device of the batches.

    Raises:
        RLTransformerError: The text is shorter than one sequence.
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
        """Return the first token's index of each sequence of update ``step``: (B,)."""
        random = generator(Stream.TEXT, self.seed, step)
        return random.integers(0, len(self.tokens) - self.length + 1, self.batch_size)

    def gather(self, index: np.ndarray) -> Tensor:
        """Return the sequences that begin at ``index`` (B,): (B, L) int64."""
        positions = index[:, None] + np.arange(self.length)
        # Embedding lookups need int64; the stored tokens are int32 to halve their memory.
        return torch.from_numpy(self.tokens[positions].astype(np.int64)).to(self.device)

    def count_valid(self, index: np.ndarray) -> int:
        """Return the number of tokens that are predicted: all but the first of each sequence."""
        return len(index) * (self.length - 1)

    def describe(self, index: np.ndarray) -> str:
        """Return a text with the positions of the sequences, for error messages."""
        return f"tokens from {', '.join(map(str, index[:20].tolist()))}"
