"""Translate errors of memory that ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rl_transformer.errors import RLTransformerError

# torch has a type of its own for GPUs only, which contains the last of these texts.
_TEXTS = ("can't allocate memory", "not enough memory", "alloc_failed", "out of memory")

STORE_FIX = "rlt convert writes it as a store, one episode at a time, and training maps a store instead of reading it"
"""Advice for data that does not fit into the memory."""


@contextmanager
def translate_memory_errors(what: str, *, where: object, fix: str) -> Iterator[None]:
    """Translate an allocation that failed inside the block into an error that says what to make smaller.

    Args:
        what: What takes the memory, for the message.
        where: Where it was asked for, for the message.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The memory is not enough.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and not any(known in text.lower() for known in _TEXTS):
            raise
        problem = f"the memory is not enough for {what}{text and f' ({text[:200]})'}"
        raise RLTransformerError(problem, where=where, fix=fix) from error
