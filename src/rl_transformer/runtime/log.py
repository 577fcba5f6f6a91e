"""Messages to the person who started the program: the one place in the library that prints."""

from __future__ import annotations


def info(message: str) -> None:
    """Print a message to standard output at once, so that it is seen while a long run goes on."""
    print(message, flush=True)
