"""Print messages to the user; library code outside of `cli` prints nowhere else, except for the progress bar."""

from __future__ import annotations


def info(message: str) -> None:
    """Print a message to standard output."""
    # Python buffers output to files and pipes. Unflushed, the messages of a long run would appear at its end.
    print(message, flush=True)
