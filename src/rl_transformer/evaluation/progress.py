"""Show how many episodes are finished, on a terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm

from rl_transformer.runtime.system import fork_context


class EpisodeProgress:
    """A progress bar on stderr; nothing is shown where stderr is no terminal.

    Args:
        total: Number of episodes.
        shown: False: show nothing at all.
        processes: Processes that run the episodes.
    """

    def __init__(self, total: int, *, shown: bool, processes: int) -> None:
        # A log file or a pipe would record every refresh of a bar as a line.
        hidden = not (shown and sys.stderr.isatty())
        self._bar = tqdm(total=total, unit="episode", disable=hidden, dynamic_ncols=True, leave=False)
        # Forked processes see the memory of their parent, but only a shared number that they change is seen by it.
        self._shared = fork_context().Value("q", 0) if processes > 1 else None

    def finish_episode(self) -> None:
        """Count one more finished episode, in this process or in one of those that share the episodes."""
        if self._shared is None:
            self._bar.update()
        else:
            with self._shared.get_lock():
                self._shared.value += 1

    def refresh(self) -> None:
        """Show what other processes counted."""
        if self._shared is not None:
            self._bar.update(self._shared.value - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
