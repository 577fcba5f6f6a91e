"""Translate errors of memory that ran out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.system import available_memory

# torch has a type of its own for GPUs only, which contains the last of these texts.
_TEXTS = ("can't allocate memory", "not enough memory", "alloc_failed", "out of memory")

STORE_FIX = "rlt convert writes it as a store, one episode at a time, and training maps a store instead of reading it"
"""Advice for data that does not fit into the memory."""


def refuse_beyond_memory(num_bytes: int, what: str, *, where: object, fix: str) -> None:
    """Refuse what needs more memory than is left, before the system ends this process for it.

    Args:
        num_bytes: Bytes that it needs.
        what: What needs them, in the plural, for the message.
        where: Where it comes from, for the message.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The memory is not enough.
    """
    left = available_memory()
    if left is not None and num_bytes > left:
        problem = f"{what} take {num_bytes / 2**30:.2f} GiB of memory, and {left / 2**30:.2f} GiB are left"
        raise RLTransformerError(problem, where=where, fix=fix)


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
        problem = f"there is not enough memory for {what}{text and f' ({text[:200]})'}"
        raise RLTransformerError(problem, where=where, fix=fix) from error
