"""Atari from pixels (Chen et al. 2021, section 4.1): on games of scripted players, or on the published replay buffers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rl_transformer.config import RunConfig, preset
from rl_transformer.environments.atari import PROTOCOLS, atari_arguments
from rl_transformer.environments.scripted import scripted_behavior
from rl_transformer.environments.sources import EnvironmentSource, opened
from rl_transformer.evaluation import plots
from rl_transformer.evaluation.collection import record_episodes
from rl_transformer.evaluation.differences import (
    MARGIN_SHARE,
    format_difference,
    is_above_zero,
    not_worse,
    paired_difference,
)
from rl_transformer.evaluation.evaluate import evaluate
from rl_transformer.evaluation.references import REFERENCES
from rl_transformer.evaluation.report import EvaluationReport
from rl_transformer.evaluation.statistics import interquartile_mean_over_games, over_seeds
from rl_transformer.evaluation.video import save_video
from rl_transformer.policy import Policy
from rl_transformer.reproductions.experiment import (
    JSON,
    Cell,
    Check,
    Experiment,
    Measured,
    Row,
    Score,
    Setup,
    Summary,
    pick,
    values_of,
)
from rl_transformer.reproductions.run_cache import EVALUATION_SEED, cached_dataset, cached_policy, with_options
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.store import write_store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROTOCOL = "paper"
GAMES: dict[str, JSON] = {
    "Pong": {"episodes": 36, "noise": "0..0.5", "max_steps": 3_000},
    "Breakout": {"episodes": 170, "noise": "0..1", "max_steps": None},
}
"""How the games of the scripted players are recorded: about 100,000 frames of each."""
GAME_OPTIONS: dict[str, JSON] = {
    # With the convolutions of Mnih et al., policies fit Pong's training games and err on others as often as before.
    "Pong": {"model.state_encoder": "impala", "training.train_steps": 2_400},
    "Breakout": {},
}
"""Options of a game beside the common ones."""
ACTIONS = {"Pong": "greedy"}
"""How actions are chosen in the evaluation of a game, if not by sampling."""
ARMS: dict[str, JSON] = {
    "dt": {},
    "bc-25": {"model.conditions": [], "dataset.top_fraction": 0.25},
    "bc": {"model.conditions": []},
}
TITLES = {
    "dt": "Decision Transformer, target: the data's best return",
    "bc-25": "%BC, best 25 % of timesteps",
    "bc": "behavior cloning on all data",
}
_RECIPE = {
    "windows.context_length": 4,
    "training.batch_size": 64,
    "training.train_steps": 2_000,
    "training.warmup_steps": 100,
    "training.precision": "bfloat16",
    "policy.action_selection": "sample",
}
QUICK = {"training.train_steps": 20, "training.batch_size": 8, "model.hidden_size": 32, "model.n_layer": 1}
RULES = {
    "data": "it earns more than the mean of the data: the 95 % interval of the difference lies above 0",
    "bc": "it earns more than behavior cloning: the interval of the paired difference lies above 0",
    "rival": "it is not worse than %BC by more than 5 % of the way from a random player's score to the data's best return",
}
_GIF_STEPS = 400
_PLAYER = "player-2"


class Atari(Experiment):
    """Decision Transformer, %BC and BC from the pixels of two games."""

    name = "atari"
    title = "Atari from pixels"
    question = (
        "Pong and Breakout from 84 x 84 gray pixels, in about 100,000 frames of each: a scripted player that follows the ball "
        "plays games of mixed quality, because in every game another share of its actions is random. Does a Decision "
        "Transformer with the data's best return as target play better than the data and than behavior cloning, and as well as %BC? "
        "All policies play ten whole games by the paper's protocol; games of Pong are cut off after 3,000 steps, in the data too."
    )
    rules: ClassVar = {f"{game.lower()}-{rule}": f"{game}: {text}" for game in GAMES for rule, text in RULES.items()}
    unit = "game score"
    seeds = 3
    differs = (
        "The data is of scripted players, 100,000 frames a game, and not of a DQN in training, 500,000.",
        "The preset `image` (3 layers, 4 heads, width 128), K = 4, 2,000 updates of 64 windows in bfloat16 (Pong: 2,400, and the "
        "residual network of IMPALA as encoder); the paper has 6 layers, 8 heads, K = 30 or 50, and about 20,000 updates of 128 windows.",
        "%BC and behavior cloning are the same model and training without returns; the share of 25 % was chosen before.",
        "Pong's encoder, number of updates and scripted player are a second attempt: with the convolutions of Mnih et al., 2,000 "
        "updates and another player no arm had learned to play (-20.7). They were chosen by held-out errors and single games.",
        "In Pong actions are greedy. They are sampled in the paper and in Breakout here. This was changed after seed 0 had been seen: "
        "with sampled actions its Decision Transformer scored -8.8 and %BC -8.3.",
        "Normalized scores are between a random player (0) and a human (100) by the paper's constants; those of Pong are of games "
        "that are cut off, and cannot be compared with whole games. The interval of their interquartile mean is a stratified bootstrap, "
        "which is too narrow with few seeds.",
    )
    unknown = (
        "Scripted actions depend on the game's memory and on the player's own last action; how much of them four frames show "
        "was not measured.",
        "The 1 % of the DQN replay data that the paper uses is not on this machine.",
    )

    def recipe(self, setup: Setup) -> JSON:
        """Return games, sizes and options."""
        return {
            "games": {
                game: {**made, **({"episodes": 2, "max_steps": 60} if setup.quick else {})}
                for game, made in GAMES.items()
            },
            "protocol": PROTOCOL,
            "evaluation_episodes": 2 if setup.quick else 10,
            "preset": "image",
            "options": _RECIPE,
            "game_options": GAME_OPTIONS,
            "actions": ACTIONS,
            "quick_options": QUICK if setup.quick else {},
            "arms": ARMS,
        }

    def prepare(self, setup: Setup) -> JSON:
        """Record the games, and return what identifies them."""
        return {game: {"fingerprint": self.dataset(game, setup).fingerprint} for game in self.games(setup)}

    def games(self, setup: Setup) -> list[str]:
        """Return the games that are played."""
        return list(GAMES)

    def rule(self, game: str, name: str) -> str:
        """Return the name of one of the rules for a game."""
        return f"{game.lower()}-{name}"

    def cells(self, setup: Setup) -> list[Cell]:
        """Return one policy per game, arm and seed."""
        return [
            {"game": game, "arm": arm, "seed": seed}
            for seed in range(setup.seeds)
            for game in self.games(setup)
            for arm in ARMS
        ]

    def measure(self, cell: Cell, setup: Setup) -> JSON:
        """Return the scores of the policy's games beside the returns of the data."""
        recipe = self.recipe(setup)
        game = cell["game"]
        dataset = self.dataset(game, setup)
        policy = cached_policy(self._config(cell, setup), setup, dataset)
        selection = recipe["actions"].get(game, policy.spec.action_selection)
        policy.spec = replace(policy.spec, action_selection=selection)
        best = float(dataset.episode_returns.max())
        max_steps = recipe["games"][game]["max_steps"]
        report = _play(policy, game, best, recipe["evaluation_episodes"], max_steps)
        scores = report.targets[0].episode_returns
        if cell["arm"] == "dt" and cell["seed"] == 0:
            (frames,) = _play(policy, game, best, 1, _GIF_STEPS, record=1).recordings
            save_video(frames[::2], str(setup.output / f"{game.lower()}.gif"), frames_per_second=15)
        returns = dataset.episode_returns
        data = {
            "mean": float(np.mean(returns)),
            "best": best,
            "episodes": len(returns),
            "steps": int(dataset.offsets[-1]),
        }
        return {"mean": float(np.mean(scores)), "episodes": scores, "data": data}

    def _config(self, cell: Cell, setup: Setup) -> RunConfig:
        recipe = self.recipe(setup)
        config = preset(recipe["preset"])
        of_game = recipe["game_options"].get(cell["game"], {})
        options = {**recipe["options"], **of_game, **recipe["quick_options"], **ARMS[cell["arm"]]}
        return with_options(config, {**options, "training.seed": cell["seed"]})

    def dataset(self, game: str, setup: Setup) -> TrajectoryDataset:
        """Record the games of a scripted player, once, and open them."""
        made = self.recipe(setup)["games"][game]
        # Games of an earlier version's player must not be taken for those of the present one.
        name = f"{game.lower()}-{_PLAYER}-{made['episodes']}-{made['noise']}-{made['max_steps']}"
        return open_trajectories(f"rlt:{cached_dataset(setup, name, lambda folder: record_game(folder, game, **made))}")

    def summarize(self, measured: Measured, setup: Setup) -> Summary:
        """Compare the arms of each game, seed by seed."""
        rows: list[Row] = []
        checks: dict[str, Check] = {}
        figures: JSON = {"data": {}, "differences": {}}
        for game in self.games(setup):
            scores = {arm: over_seeds(values_of(measured, "mean", game=game, arm=arm)) for arm in ARMS}
            data = pick(measured, game=game)[0]["data"]
            rows += [Row(f"{game}: {TITLES[arm]}", score) for arm, score in scores.items()]
            rows += [Row(f"{game}: mean of the data", _constant(data["mean"], scores["dt"]))]
            differences = {
                "data": paired_difference(scores["dt"], _constant(data["mean"], scores["dt"])),
                "bc": paired_difference(scores["dt"], scores["bc"]),
                "rival": paired_difference(scores["dt"], scores["bc-25"]),
            }
            for rule, difference in differences.items():
                above = Check(is_above_zero(difference), format_difference(difference))
                is_rival = rule == "rival"
                checks[self.rule(game, rule)] = not_worse(difference, _margin(game, data)) if is_rival else above
            figures["data"][game] = data
            figures["differences"][game] = differences
        for arm, title in TITLES.items():
            normalized = {
                game: [_normalized(game, value) for value in values_of(measured, "mean", game=game, arm=arm)]
                for game in self.games(setup)
            }
            if all(f"atari-{game.lower()}" in REFERENCES for game in normalized):
                over_games = interquartile_mean_over_games(normalized)
                figures.setdefault("human_normalized", {})[arm] = {"scores": normalized, **over_games}
                values = [value for scores in normalized.values() for value in scores]
                what = f"human-normalized, interquartile mean over games: {title}"
                rows.append(Row(what, {**over_games, "values": values}, unit="percent"))
        return Summary(rows, checks, figures)

    def draw(self, measured: Measured, summary: Summary, axes: Axes) -> None:
        """Draw one bar per row."""
        plots.bars(axes, [(row.what, row.score) for row in summary.rows if row.unit is None], "game score")


def record_game(folder: Path, game: str, *, episodes: int, noise: str, max_steps: int | None) -> TrajectoryDataset:
    """Record games of a scripted player as a store.

    Args:
        folder: Where the store is written.
        game: Pong or Breakout.
        episodes: Games to play.
        noise: Share of random actions, as in ``scripted:tracker?noise=``.
        max_steps: Steps after which a game is cut off.
    """
    env_id = f"ALE/{game}-v5"
    with opened(EnvironmentSource.of(env_id, **atari_arguments(env_id, PROTOCOL))) as live:
        behavior = scripted_behavior(f"scripted:tracker?noise={noise}", live.environment)
        spec, games = record_episodes(
            live.environment, env_id, episodes, seed=0, behavior=behavior, max_steps=max_steps
        )
        protocol = PROTOCOLS[PROTOCOL]
        spec = replace(spec, env_kwargs=protocol.env_kwargs, env_wrappers=tuple(protocol.wrappers))
        return write_store(folder, spec, games)


def _play(
    policy: Policy, game: str, target: float, num_episodes: int, max_steps: int | None, record: int = 0
) -> EvaluationReport:
    """Let the policy play by the protocol, with the target if it takes one."""
    env_id = f"ALE/{game}-v5"
    return evaluate(
        policy,
        env_id=env_id,
        target_returns=[target] if policy.spec.takes_target else [],
        num_episodes=num_episodes,
        seed=EVALUATION_SEED,
        max_steps=max_steps,
        record=record,
        **atari_arguments(env_id, PROTOCOL),
    )


def _normalized(game: str, score: float) -> float:
    """Return a game's score between a random player (0) and a human (100)."""
    return REFERENCES[f"atari-{game.lower()}"].normalized(score)


def _margin(game: str, data: JSON) -> float:
    """Return by how much a score may lie below another one and still count as not worse."""
    reference = REFERENCES.get(f"atari-{game.lower()}")
    lowest = data["mean"] if reference is None else reference.random
    return MARGIN_SHARE * abs(data["best"] - lowest)


def _constant(value: float, like: Score) -> Score:
    """Return a score that is the same with every seed."""
    return over_seeds([value] * len(like["values"]))
