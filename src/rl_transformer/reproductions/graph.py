"""Shortest paths from random walks: the illustration of Decision Transformer (Chen et al. 2021, figure 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from rl_transformer.environments import graph_walk
from rl_transformer.environments.graph_walk import GOAL, MAX_STEPS, NUM_NODES, distances
from rl_transformer.evaluation import plots
from rl_transformer.environments.making import make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, with_options, cached_policy
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.config.presets import key_to_door
from rl_transformer.trajectories import TrajectoryDataset
from rl_transformer.trajectories.trajectory import Trajectory

ARMS = {
    "worst": "generated returns, walks that miss the goal labelled -10 at every step",
    "plain": "generated returns, walks that miss the goal labelled by their steps left",
    "bc": "behavior cloning, greedy",
}


class Graph(Experiment):
    """Each seed is a graph with walks of its own."""

    name = "graph"
    title = "Shortest paths from random walks"
    question = (
        "20 nodes, an edge with probability 0.1, and 1,000 random walks of 10 steps: no walk was meant to be short. Can "
        "a policy find shortest paths from every node? It names its own returns: at each step the mode of "
        "P(return | history) * P_prior(return)^10, where the prior prefers short paths."
    )
    rules = {  # noqa: RUF012
        "optimal": "first convention: the shortest path from 90 % of the nodes or more, mean over graphs",
        "steps": "first convention: mean steps within 10 % of the true mean distance (a miss counts 10)",
        "beats": "first convention needs fewer steps than random walks and than behavior cloning: paired Wilcoxon over graphs, p < 0.01",
    }
    seeds = 20
    quick_seeds = 2
    enough_seeds = 20
    differs = (
        "A second transformer, which reads no returns, generates them; the paper's one network generates both.",
        "Graphs in which some node has no way to the goal are drawn again (a plain draw leaves about half of the nodes without one).",
        "Returns that the model of returns holds less likely than 0.002 are not generated. A table of counts knows what never "
        "happened; a network never says 0, and the tenth power of the prior would raise a doubt of 1e-5 above a short "
        "path that was seen once in a hundred walks.",
        "Walks are drawn evenly over their returns for the policy (not for the model of returns).",
        "Walks that miss the goal are labelled in two ways. Labelled by their steps left, as a plain sum of rewards is, a "
        "return of -1 also stands at the last step of every failed walk and no longer means that the goal is one "
        "step away. Labelled -10 at every step, it does. The rule is about the second, which is a choice of ours: the paper "
        "does not say what it does. A policy that reads timesteps, as ours does, can also tell the two meanings apart.",
    )
    unknown = (
        "The paper's code was not released; its model, seeds and treatment of failed walks are not known.",
        "Its share of new paths, 15.8 % [S], is of one graph.",
    )

    def interval_over(self, setup: Setup) -> str:
        """Return graphs."""
        return "graphs"

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The sizes."""
        return {
            "walks": 1_000,
            "options": {
                "windows.start": "any",
                "windows.context_length": MAX_STEPS,
                "model.resid_pdrop": 0.0,
                "model.embd_pdrop": 0.0,
                "model.n_head": 1,
                "returns.scale": 10.0,
                "returns.bins": MAX_STEPS,
                "policy.prior_floor": 0.002,
                "training.batch_size": 64,
                "training.train_steps": 400 if setup.quick else 1_000,
                "training.learning_rate": 2e-3,
                "training.weight_decay": 0.0,
            },
        }

    def cells(self, setup: Setup) -> list[Cell]:
        """Three policies a graph."""
        return [{"arm": arm, "graph": graph} for graph in range(setup.seeds) for arm in ARMS]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """Walk once from every node."""
        recipe, graph = self.recipe(setup), cell["graph"]
        env_id = graph_walk(graph)
        environment = make_environment(env_id)
        edges = environment.unwrapped.edges
        spec, recorded = record_episodes(
            environment,
            env_id,
            recipe["walks"],
            seed=10_000_000 + graph * 10_000,
            behavior=lambda seen, random: random.choice(np.flatnonzero(edges[int(seen.argmax())])),
        )
        walks = list(recorded)
        labelled = [_worst(walk) for walk in walks] if cell["arm"] == "worst" else walks
        options = {**recipe["options"], "training.seed": graph}
        if cell["arm"] == "bc":
            options |= {"model.conditions": [], "windows.return_balance": 0.0}
            options = {
                name: value for name, value in options.items() if name not in ("returns.bins", "policy.prior_floor")
            }
        else:
            options |= {"policy.target": "generated"}
        config = with_options(key_to_door(), options)
        policy = cached_policy(config, setup, TrajectoryDataset.in_memory(spec, labelled))
        # The seed of an episode names its start: 19 consecutive ones meet every node but the goal.
        seed = EVALUATION_SEED - EVALUATION_SEED % (NUM_NODES - 1)
        _, acted = record_episodes(environment, env_id, NUM_NODES - 1, seed=seed, policy=policy)
        return _figures(list(acted), walks, distances(edges))

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare with the true distances, with the walks and with cloning."""

        def over(measure: str, arm: str = "worst") -> dict[str, Any]:
            return over_seeds(values_of(measured, measure, arm=arm), "graphs")

        tabular = {"worst": "97.7 % [C], tabular", "plain": "56.3 % [C], tabular", "bc": "21.1 % [C], tabular"}
        rows = [Row(f"shortest path found: {title}", over("optimal", arm), tabular[arm]) for arm, title in ARMS.items()]
        rows += [Row(f"goal reached: {title}", over("reached", arm)) for arm, title in ARMS.items()]
        rows.append(
            Row("paths that are no piece of any walk, first convention", over("novel"), "15.8 % [S], one graph")
        )
        steps = {arm: over("steps", arm) for arm in ARMS}
        ours, true, walks = steps["worst"]["mean"], over("true_steps")["mean"], over("walk_steps")
        lower = [_fewer(steps["worst"]["values"], other["values"]) for other in (walks, steps["bc"])]
        optimal = rows[0].score["mean"]
        checks = {
            "optimal": (optimal >= 0.9, f"{100 * optimal:.1f} %"),
            "steps": (ours <= 1.1 * true, f"{ours:.2f} steps, true mean {true:.2f}"),
            "beats": (
                None if len(walks["values"]) < 8 else max(lower) < 0.01,
                f"p = {lower[0]:.1g} and {lower[1]:.1g}; walks {walks['mean']:.2f} steps, cloning {steps['bc']['mean']:.2f}",
            ),
        }
        return Summary(rows, checks, {"steps": {**steps, "true": over("true_steps"), "random_walks": walks}})

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """Mean steps by graph, against the true mean distance."""
        steps = summary.figures["steps"]
        order = np.argsort(steps["true"]["values"])
        for name, color in (("random_walks", plots.PALE), ("bc", "C0"), ("plain", "C2"), ("worst", plots.ACCENT)):
            axes.plot(np.asarray(steps[name]["values"])[order], "o", color=color, label=ARMS.get(name, "random walks"))
        axes.plot(np.asarray(steps["true"]["values"])[order], color=plots.INK, label="true distance")
        axes.set_xlabel("graph")
        axes.set_ylabel("mean steps to the goal (a miss counts 10)")
        axes.set_ylim(0, None)
        axes.legend(frameon=False, fontsize=7)


def _worst(walk: Trajectory) -> Trajectory:
    """Label a walk that missed the goal with -10 at every step."""
    if walk.terminated:
        return walk
    rewards = np.zeros(len(walk.rewards))
    rewards[-1] = -float(MAX_STEPS)
    return replace(walk, rewards=rewards)


def _path(walk: Trajectory) -> tuple[int, ...]:
    """Return the nodes of a walk, the last one included."""
    return tuple(int(node) for node in [*walk.observations.argmax(-1), np.argmax(walk.final_observation)])


def _figures(acted: list[Trajectory], walks: list[Trajectory], distance: np.ndarray) -> dict[str, Any]:
    pieces = {path[i:j] for path in map(_path, walks) for i in range(len(path)) for j in range(i + 2, len(path) + 1)}
    paths = [_path(walk) for walk in acted]
    reached = [path for path in paths if path[-1] == GOAL]
    steps = [len(path) - 1 for path in paths]
    best = [len(path) - 1 == distance[path[0]] for path in reached]
    walked = [len(walk.rewards) for walk in walks]
    return {
        "reached": len(reached) / len(paths),
        "optimal": float(sum(best) / len(paths)),
        "steps": float(np.mean(steps)),
        "true_steps": float(distance[distance > 0].mean()),
        "walk_steps": float(np.mean(walked)),
        "novel": sum(path not in pieces for path in reached) / max(1, len(reached)),
    }


def _fewer(ours: list[float], others: list[float]) -> float:
    """Return p of a paired, one-sided Wilcoxon test that ours are smaller."""
    _, p = stats.wilcoxon(ours, others, alternative="less")
    return float(p)  # pyright: ignore[reportArgumentType]  scipy's stub: a tuple of unknowns
