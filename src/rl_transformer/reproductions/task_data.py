"""Control data, and what the experiments on it share.

The data is the user's (``--data``, ``--env-id``) or made here: CartPole under a linear controller
whose share of random actions differs from episode to episode, so that returns spread from failure
to perfection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.environments.making import check_spaces, make_environment
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.run_cache import with_options, cached_dataset, returns_at, cached_policy
from rl_transformer.reproductions.reproduction import Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.config.presets import fast
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

LOCAL_ENV = "CartPole-v1"
DATA_NOTE = (
    "Scores are plain returns of the environment. Unless the data is D4RL's own, they are not comparable with D4RL's."
)
RECIPE_NOTE = (
    "All arms on control data share one recipe of ours, smaller and shorter than the published one (`fast` with the options "
    "listed in `result.json`; in full runs width 64, step size 2e-3, 2,000 updates): differences between arms are the "
    "experiment, absolute scores are not those of the published recipe."
)
EVIDENCE_NOTE = (
    'That an arm is "not worse" means that no deficit was established; the interval says how large one could still be.'
)
BC_NOTE = "%BC and BC are the same transformer without returns on the best episodes, by timesteps, not the paper's MLP."

ARMS: Mapping[str, Mapping[str, Any]] = {
    "dt": {},
    "dt-delayed": {"returns.update": "keep"},
    "bc-100": {"model.conditions": []},
    "bc-40": {"model.conditions": [], "dataset.top_fraction": 0.4},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc-10": {"model.conditions": [], "dataset.top_fraction": 0.1},
    "lora": {"training.trunk": "lora", "model.embedding": "mlp"},
}
_FULL = {"model.hidden_size": 64, "training.train_steps": 2_000, "training.learning_rate": 2e-3}
_QUICK = {
    **_FULL,
    "model.hidden_size": 32,
    "model.n_layer": 2,
    "training.train_steps": 300,
    "training.batch_size": 64,
    "training.warmup_steps": 50,
    "training.average_decay": 0.9,
}
TITLES = {
    "dt": "Decision Transformer",
    "dt-delayed": "Decision Transformer, delayed reward",
    "bc-100": "behavior cloning (100 %)",
    "bc-40": "%BC, best 40 % of timesteps",
    "bc-25": "%BC, best 25 % of timesteps",
    "bc-10": "%BC, best 10 % of timesteps",
    "lora": "frozen random blocks + LoRA + MLP embeddings",
}


@dataclass(frozen=True)
class Control:
    """Control data with its environment, and the recipe of every arm."""

    setup: Setup
    uri: str
    env_id: str

    @classmethod
    def of(cls, setup: Setup) -> Control:
        """Return the user's data, or the local one."""
        if setup.data and setup.env_id:
            return cls(setup, setup.data, setup.env_id)
        folder = setup.runs / "data" / f"cartpole-{cls._episodes(setup)}"
        return cls(setup, f"rlt:{folder}", LOCAL_ENV)

    def prepare(self) -> dict[str, Any]:
        """Make or open the data, refuse an environment that is not its own, and return what identifies the data.

        Raises:
            RLTransformerError: No such data, no such simulator, or other spaces.
        """
        environment = make_environment(self.env_id)  # a missing simulator is found before any training
        data = self.dataset()
        check_spaces(environment, data.spec, self.env_id)
        environment.close()
        return {"fingerprint": data.fingerprint}

    @staticmethod
    def _episodes(setup: Setup) -> int:
        return 100 if setup.quick else 500

    def dataset(self, share: float = 1.0, seed: int = 0) -> TrajectoryDataset:
        """Open the data, or a random share of its episodes as a data set of its own.

        Raises:
            RLTransformerError: No such data, or too few episodes for the share.
        """
        if not self.setup.data:
            cached_dataset(self.setup, Path(self.uri).name, lambda folder: local_data(folder, self._episodes(self.setup)))
        whole = open_trajectories(self.uri)
        if share == 1:
            return whole
        count = len(whole) * share
        if count < 1:
            raise RLTransformerError(
                f"{share:g} of {len(whole)} episodes is less than one", where=self.uri, fix="use a larger data set"
            )
        chosen = np.sort(np.random.default_rng([seed, 0xDA]).permutation(len(whole))[: round(count)])
        return TrajectoryDataset.in_memory(whole.spec, [whole.trajectory(int(i)) for i in chosen])

    def recipe(self) -> dict[str, Any]:
        """Return what determines the scores."""
        quick = self.setup.quick
        return {
            "env_id": self.env_id,
            "episodes": 20 if quick else 50,
            "options": _QUICK if quick else _FULL,
        }

    def score(
        self, arm: str, seed: int, options: Mapping[str, Any] | None = None, *, share: float = 1.0, targets: Any = None
    ) -> dict[str, Any]:
        """Train an arm and return its mean return when asked for the data's largest one (or for ``targets``)."""
        dataset, recipe = self.dataset(share, seed), self.recipe()
        config = with_options(fast(), {**recipe["options"], **ARMS[arm], **(options or {}), "training.seed": seed})
        config.dataset.uri = self.uri
        policy = cached_policy(config, self.setup, dataset)
        largest = float(dataset.episode_returns.max())
        asked = [largest] if targets is None else list(targets)
        earned = returns_at(policy, self.env_id, asked, recipe["episodes"])
        means = [float(np.mean(episodes)) for episodes in earned]
        return {"asked": asked, "mean": means[0], "means": means, "largest": largest, "episodes": earned}


class MixedSkillController:
    """A linear controller for CartPole; each episode has a share of random actions of its own."""

    def __init__(self) -> None:
        self._episode: np.random.Generator | None = None
        self._randomness = 0.0

    def __call__(self, seen: np.ndarray, random: np.random.Generator) -> int:
        if random is not self._episode:  # every episode comes with its own generator
            self._episode, self._randomness = random, random.random()
        if random.random() < self._randomness:
            return int(random.integers(2))
        return int(seen @ np.array([0.1, 0.5, 1.0, 1.0]) > 0)


def local_data(folder: Path, num_episodes: int) -> TrajectoryDataset:
    """Record CartPole under controllers from random to perfect."""
    environment = make_environment(LOCAL_ENV)
    recorded = record_episodes(environment, LOCAL_ENV, num_episodes, seed=10_000_000, behavior=MixedSkillController())
    return write_store(folder, *recorded)


def target_of(measured: Measured) -> float:
    """Return the largest return of the whole data: what every arm was asked for."""
    return max(row["largest"] for row in measured if "largest" in row)


class ControlExperiment(Experiment):
    """An experiment whose cells are arms on control data."""

    unit = "return"
    takes_data = True
    arms: ClassVar[tuple[str, ...]]

    def recipe(self, setup: Setup) -> dict[str, Any]:
        """The shared recipe and this experiment's arms."""
        return {**Control.of(setup).recipe(), "arms": {arm: dict(ARMS[arm]) for arm in self.arms}}

    def prepare(self, setup: Setup) -> dict[str, Any]:
        """Make or open the data."""
        return Control.of(setup).prepare()

    def cells(self, setup: Setup) -> list[Cell]:
        """One policy an arm and seed."""
        return [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in self.arms]

    def measure(self, cell: Cell, setup: Setup) -> dict[str, Any]:
        """The mean return when asked for the data's best."""
        return Control.of(setup).score(cell["arm"], cell["seed"])

    def rows(self, measured: Measured) -> dict[str, Row]:
        """One row an arm."""
        return {arm: Row(TITLES[arm], over_seeds(values_of(measured, "mean", arm=arm))) for arm in self.arms}

    def draw(self, measured: Measured, summary: Summary, axes: Any) -> None:
        """One bar a row."""
        plots.bars(
            axes, [(row.what, row.score) for row in summary.rows], f"return when asked for {self.asked(measured)}"
        )

    def asked(self, measured: Measured) -> str:
        """Return what the arms were asked for, for the figure."""
        return f"{target_of(measured):.4g}"


def format_difference(gap: Mapping[str, Any]) -> str:
    """Return a paired difference with its interval as text."""
    numbers = [gap["mean"], *(gap["interval"] or [])]
    mean, *interval = (f"{x:+.0f}" if abs(x) >= 100 else f"{x:+.3g}" for x in numbers)
    return f"difference {mean} [{', '.join(interval)}]" if interval else f"difference {mean}, one seed"
