"""Find episodes that have the same content as an earlier one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from rl_transformer.trajectories.findings import MAX_POSITIONS, Finding


class EpisodeCopies:
    """Finds copies anywhere in the data by a hash of 16 bytes per episode, without holding the data in memory."""

    # Merged files often contain episodes twice.

    def __init__(self) -> None:
        self._first_episodes: dict[bytes, int] = {}  # hash of an episode's content -> first episode with it
        self._copies: list[tuple[int, bytes]] = []  # later ones

    def add(self, episode: int, *arrays: np.ndarray) -> None:
        """Look at the arrays of one episode."""
        digest = blake2b(digest_size=16)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        self._add(episode, digest.digest())

    def _add(self, episode: int, digest: bytes) -> None:
        if self._first_episodes.setdefault(digest, episode) != episode:
            self._copies.append((episode, digest))

    def join(self, later: EpisodeCopies, first_episode: int) -> None:
        """Take over the episodes that follow, the first of which is ``first_episode`` here."""
        hashes = ((episode, digest) for digest, episode in later._first_episodes.items())
        for episode, digest in heapq.merge(hashes, later._copies):
            self._add(first_episode + episode, digest)

    def findings(self) -> Iterator[Finding]:
        """Yield a warning if there are copies."""
        if self._copies:
            problem = f"is the same episode as number {self._first_episodes[self._copies[0][1]]}"
            fix = "remove the copies, unless these episodes are meant to have more weight"
            positions = [{"episode": episode} for episode, _ in self._copies[:MAX_POSITIONS]]
            yield Finding("warning", "duplicate episode", "episode", problem, fix, len(self._copies), positions)
