"""Shortest paths in a random directed graph, as in the illustration of Decision Transformer (Chen et al. 2021).

20 nodes, an edge with probability 0.1; the state is the node, the action the node to move to (no
such edge: stay); every step costs 1 until the goal is reached, so the return is minus the number of steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

NUM_NODES = 20
EDGE_PROBABILITY = 0.1
GOAL = 0
MAX_STEPS = 10


def random_graph(seed: int) -> np.ndarray:
    """Return the edges of a graph in which every node reaches the goal: (NUM_NODES, NUM_NODES) bool.

    Graphs where some node has no way to the goal are drawn again; without that a plain draw leaves
    about half of the nodes without any way.
    """
    random = np.random.default_rng([seed, 0x6A])
    while True:
        edges = random.random((NUM_NODES, NUM_NODES)) < EDGE_PROBABILITY
        np.fill_diagonal(edges, False)
        if edges.any(axis=1).all() and np.isfinite(distances(edges)).all():
            return edges


def distances(edges: np.ndarray) -> np.ndarray:
    """Return every node's number of steps to the goal, infinite without a way: (NUM_NODES,) float64."""
    found = np.full(len(edges), np.inf)
    found[GOAL] = 0
    for _ in edges:
        following = np.where(edges, found[None, :], np.inf).min(axis=1)
        found = np.minimum(found, following + 1)
    return found


class GraphWalkEnv(gym.Env):
    """One graph; an episode begins at a node other than the goal and ends there, or after 10 steps.

    Observation: the node as one-hot, (20,) float32.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, graph_seed: int, render_mode: str | None = None) -> None:
        self.edges = random_graph(graph_seed)
        self.observation_space = gym.spaces.Box(0, 1, (NUM_NODES,), np.float32)
        self.action_space = gym.spaces.Discrete(NUM_NODES)
        self.render_mode = render_mode
        self._node, self._step = GOAL, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin at node 1 + seed modulo 19, or at a random one without a seed."""
        super().reset(seed=seed)
        start = int(self.np_random.integers(NUM_NODES - 1)) if seed is None else seed % (NUM_NODES - 1)
        self._node, self._step = 1 + start, 0
        return self._observe(), {"node": self._node}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move along an edge, or stay where there is none."""
        self._step += 1
        if self.edges[self._node, int(action)]:
            self._node = int(action)
        arrived = self._node == GOAL
        return self._observe(), -1.0, arrived, not arrived and self._step == MAX_STEPS, {"node": self._node}

    def _observe(self) -> np.ndarray:
        return np.eye(NUM_NODES, dtype=np.float32)[self._node]
