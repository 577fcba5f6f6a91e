"""Shortest paths in a random directed graph, as in the illustration of Decision Transformer (Chen et al. 2021).

20 nodes, an edge with probability 0.1; the state is the node, the action the node to move to (no
such edge: stay); every step costs 1 until the goal is reached, so the return is minus the number of steps.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonObject

NUM_NODES = 20
EDGE_PROBABILITY = 0.1
GOAL = 0
MAX_STEPS = 10


def random_graph(seed: int) -> np.ndarray:
    """Return the edges of a graph in which every node reaches the goal: (NUM_NODES, NUM_NODES) bool.

    Graphs in which some node has no path to the goal are drawn again; without that, a draw leaves about
    half of the nodes without a path.
    """
    random = generator(Stream.GRAPH, seed)
    while True:
        edges = random.random((NUM_NODES, NUM_NODES)) < EDGE_PROBABILITY
        np.fill_diagonal(edges, False)
        if edges.any(axis=1).all() and np.isfinite(distances(edges)).all():
            return edges


def distances(edges: np.ndarray) -> np.ndarray:
    """Return every node's number of steps to the goal, infinite without a path: (NUM_NODES,) float64."""
    steps = np.full(len(edges), np.inf)
    steps[GOAL] = 0
    # A shortest path has fewer steps than there are nodes, so that many passes reach every node.
    for _ in edges:
        after_move = np.where(edges, steps[None, :], np.inf).min(axis=1)
        steps = np.minimum(steps, after_move + 1)
    return steps


class GraphWalkEnv(gym.Env[np.ndarray, np.int64]):
    """One graph; an episode begins at a node other than the goal and ends there, or after 10 steps.

    Observation: the node as one-hot, (20,) float32.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own form

    def __init__(self, graph_seed: int, render_mode: str | None = None) -> None:
        self.edges = random_graph(graph_seed)
        self.observation_space = gym.spaces.Box(0, 1, (NUM_NODES,), np.float32)
        self.action_space = gym.spaces.Discrete(NUM_NODES)
        self.render_mode = render_mode
        self._node = GOAL
        self._step = 0

    def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[np.ndarray, dict]:
        """Begin at node 1 + seed modulo 19, or at a random one without a seed."""
        super().reset(seed=seed)
        start = int(self.np_random.integers(NUM_NODES - 1)) if seed is None else seed % (NUM_NODES - 1)
        self._node = 1 + start
        self._step = 0
        return self._observe(), {"node": self._node}

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move along an edge, or stay where there is none."""
        self._step += 1
        if self.edges[self._node, int(action)]:
            self._node = int(action)
        at_goal = self._node == GOAL
        return self._observe(), -1.0, at_goal, not at_goal and self._step == MAX_STEPS, {"node": self._node}

    def _observe(self) -> np.ndarray:
        return np.eye(NUM_NODES, dtype=np.float32)[self._node]
