"""Data of a control task, and what the experiments on it share.

The data is the user's (``--data``, ``--env-id``) or made here: CartPole under a linear controller
whose share of random actions differs from episode to episode, so that returns spread from failure
to perfection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.config.presets import fast
from rl_transformer.environments.making import check_spaces, make_environment
from rl_transformer.errors import RLTransformerError
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.differences import MARGIN_SHARE
from rl_transformer.evaluation.statistics import over_seeds
from rl_transformer.reproductions.experiment import JSON, Cell, Experiment, Measured, Row, Setup, Summary, values_of
from rl_transformer.reproductions.run_cache import cached_dataset, cached_policy, returns_at, with_options
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.types import JsonMapping
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOCAL_ENV = "CartPole-v1"
FRESH_EVALUATION_SEED = 5_000_000
"""Seed of the first episode of every final score: the recipes were chosen on episodes from `EVALUATION_SEED` on."""
DATA_NOTE = (
    "Scores are plain returns of the environment. Unless the data is D4RL's own, they are not comparable with D4RL's."
)
RECIPE_NOTE = (
    "All arms on control data share one recipe of ours, smaller and shorter than the published one (`fast` with the options "
    "listed in `result.json`; in full runs width 64, learning rate 2e-3, 2,000 updates): differences between arms are the "
    "experiment, absolute scores are not those of the published recipe."
)
MARGIN_NOTE = (
    f'"Not worse" means by no more than {100 * MARGIN_SHARE:.0f} % of the best return in the data, with the whole 95 % interval; an interval '
    "across that margin establishes nothing."
)
BC_NOTE = "%BC and BC are the same transformer without returns, trained on the best episodes (by timesteps), not the paper's MLP."

_WIDTH = 64
ARMS: Mapping[str, JsonMapping] = {
    "dt": {},
    "dt-delayed": {"returns.update": "keep"},
    "dt-20": {"windows.context_length": 20},
    "dt-delayed-20": {"returns.update": "keep", "windows.context_length": 20},
    "bc-100": {"model.conditions": []},
    "bc-40": {"model.conditions": [], "dataset.top_fraction": 0.4},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc-10": {"model.conditions": [], "dataset.top_fraction": 0.1},
    "lora": {"training.trunk": "lora", "model.embedding": "mlp", "model.initializer_range": _WIDTH**-0.5},
}
TITLES = {
    "dt": "Decision Transformer",
    "dt-delayed": "Decision Transformer, delayed reward",
    "dt-20": "Decision Transformer, K = 20",
    "dt-delayed-20": "Decision Transformer, K = 20, delayed reward",
    "bc-100": "behavior cloning (100 %)",
    "bc-40": "%BC, best 40 % of timesteps",
    "bc-25": "%BC, best 25 % of timesteps",
    "bc-10": "%BC, best 10 % of timesteps",
    "lora": "frozen random blocks + LoRA + MLP embeddings",
}
_FULL = {"model.hidden_size": _WIDTH, "training.train_steps": 2_000, "training.learning_rate": 2e-3}
_QUICK = {
    **_FULL,
    "model.hidden_size": 32,
    "model.n_layer": 2,
    "training.train_steps": 300,
    "training.batch_size": 64,
    "training.warmup_steps": 50,
    "training.ema_decay": 0.9,
}


@dataclass(frozen=True)
class TaskData:
    """Data of a control task with its environment, and the recipe of every arm."""

    setup: Setup
    uri: str
    env_id: str

    @classmethod
    def from_setup(cls, setup: Setup) -> TaskData:
        """Return the user's data, or the local one."""
        if setup.data and setup.env_id:
            return cls(setup, setup.data, setup.env_id)
        folder = setup.runs / "data" / f"cartpole-{_num_local_episodes(setup)}"
        return cls(setup, f"rlt:{folder}", LOCAL_ENV)

    def prepare(self) -> JSON:
        """Make or open the data, refuse an environment that is not its own, and return what identifies the data.

        Raises:
            RLTransformerError: No such data, no such simulator, or other spaces.
        """
        environment = make_environment(self.env_id)  # a missing simulator is found before any training
        data = self.dataset()
        check_spaces(environment, data.spec, self.env_id)
        environment.close()
        return {"fingerprint": data.fingerprint}

    def dataset(self, share: float = 1.0, seed: int = 0) -> TrajectoryDataset:
        """Open the data, or a random share of its episodes as a data set of its own.

        Raises:
            RLTransformerError: No such data, or too few episodes for the share.
        """
        if not self.setup.data:
            name = Path(self.uri).name
            cached_dataset(self.setup, name, lambda folder: local_data(folder, _num_local_episodes(self.setup)))
        whole = open_trajectories(self.uri)
        if share == 1:
            return whole
        count = len(whole) * share
        if count < 1:
            raise RLTransformerError(
                f"{share:g} of {len(whole)} episodes is less than one", where=self.uri, fix="use a larger data set"
            )
        chosen = np.sort(generator(Stream.DATA_SUBSET, seed).permutation(len(whole))[: round(count)])
        return TrajectoryDataset.in_memory(whole.spec, [whole.trajectory(int(i)) for i in chosen])

    def recipe(self) -> JSON:
        """Return what determines the scores."""
        quick = self.setup.quick
        return {
            "env_id": self.env_id,
            "episodes": 20 if quick else 50,
            "evaluation_seed": FRESH_EVALUATION_SEED,
            "options": _QUICK if quick else _FULL,
        }

    def score(
        self,
        arm: str,
        seed: int,
        options: JsonMapping | None = None,
        *,
        share: float = 1.0,
        targets: Sequence[float] | None = None,
    ) -> JSON:
        """Train an arm, and return its mean return for each target.

        Args:
            arm: A name in `ARMS`.
            seed: Seed of the training, and of the draw of episodes.
            options: Further options of the run.
            share: Share of the episodes to learn from.
            targets: Target returns; the largest return of those episodes if not given.

        Returns:
            Measures of a cell: ``asked`` holds the targets, ``mean`` is the mean return of the first one.
        """
        dataset = self.dataset(share, seed)
        recipe = self.recipe()
        config = with_options(fast(), {**recipe["options"], **ARMS[arm], **(options or {}), "training.seed": seed})
        config.dataset.uri = self.uri
        policy = cached_policy(config, self.setup, dataset)
        largest = float(dataset.episode_returns.max())
        target_returns = [largest] if targets is None else list(targets)
        episode_returns = returns_at(
            policy, self.env_id, target_returns, recipe["episodes"], seed=recipe["evaluation_seed"]
        )
        means = [float(np.mean(returns)) for returns in episode_returns]
        return {
            "asked": target_returns,
            "mean": means[0],
            "means": means,
            "largest": largest,
            "episodes": episode_returns,
        }


class MixedSkillController:
    """A linear controller for CartPole; each episode has a share of random actions of its own."""

    def __init__(self) -> None:
        self._episode: np.random.Generator | None = None
        self._randomness = 0.0

    def __call__(self, observation: np.ndarray, random: np.random.Generator) -> int:
        if random is not self._episode:  # every episode comes with its own generator
            self._episode = random
            self._randomness = random.random()
        if random.random() < self._randomness:
            return int(random.integers(2))
        return int(observation @ np.array([0.1, 0.5, 1.0, 1.0]) > 0)


def local_data(folder: Path, num_episodes: int) -> TrajectoryDataset:
    """Record CartPole under controllers from random to perfect."""
    environment = make_environment(LOCAL_ENV)
    recorded = record_episodes(environment, LOCAL_ENV, num_episodes, seed=10_000_000, behavior=MixedSkillController())
    return write_store(folder, *recorded)


def _num_local_episodes(setup: Setup) -> int:
    return 100 if setup.quick else 500


def target_of(measured: Measured) -> float:
    """Return the largest return of the whole data: the target of every arm."""
    return max(row["largest"] for row in measured if "largest" in row)


def margin_of(measured: Measured) -> float:
    """Return by how much a score may lie below another one and still count as not worse."""
    return MARGIN_SHARE * abs(target_of(measured))


class TaskDataExperiment(Experiment):
    """An experiment whose cells are arms on the data of one control task."""

    unit = "return"
    takes_data = True
    arms: ClassVar[tuple[str, ...]]

    def recipe(self, setup: Setup) -> JSON:
        """Return the shared recipe and this experiment's arms."""
        return {**TaskData.from_setup(setup).recipe(), "arms": {arm: dict(ARMS[arm]) for arm in self.arms}}

    def prepare(self, setup: Setup) -> JSON:
        """Make or open the data."""
        return TaskData.from_setup(setup).prepare()

    def cells(self, setup: Setup) -> list[Cell]:
        """Return one policy per arm and seed."""
        return [{"arm": arm, "seed": seed} for seed in range(setup.seeds) for arm in self.arms]

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return the mean return with the data's largest return as target."""
        return TaskData.from_setup(setup).score(cell["arm"], cell["seed"])

    def make_rows(self, measured: Measured) -> dict[str, Row]:
        """Return one row per arm."""
        return {arm: Row(TITLES[arm], over_seeds(values_of(measured, "mean", arm=arm))) for arm in self.arms}

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw one bar per row."""
        rows = [(row.what, row.score) for row in summary.rows]
        plots.bars(axes, rows, f"return with target {self.target_text(measured)}")

    def target_text(self, measured: Measured) -> str:
        """Return the target of the arms, for the figure."""
        return f"{target_of(measured):.4g}"
