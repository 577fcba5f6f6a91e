"""The published Atari experiment on one game's replay buffers (Chen et al. 2021, section 4.1)."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from rl_transformer.errors import RLTransformerError
from rl_transformer.reproductions.atari import ARMS, PROTOCOL, QUICK, RULES, Atari
from rl_transformer.reproductions.experiment import JSON, Setup
from rl_transformer.reproductions.run_cache import cached_dataset
from rl_transformer.runtime import log
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.open import stream_trajectories
from rl_transformer.trajectories.readers.dqn_replay_buffers import find_folder
from rl_transformer.trajectories.store import write_store

STEPS = 500_000  # one percent of the 50 million of a game, as published
_QUICK = {**QUICK, "windows.context_length": 4}


class AtariReplay(Atari):
    """Decision Transformer, %BC and BC with the published sizes on one percent of the DQN replay data."""

    title = "Atari on replay buffers"
    question = (
        "The published experiment on the replay buffers of one game: 500,000 transitions of whole episodes drawn from all "
        "buffers, the preset `atari`, ten games by the paper's protocol. Does a Decision Transformer with the data's best return "
        "as target play better than the data and than behavior cloning, and as well as %BC? Returns of the data are of clipped "
        "rewards, and so is the target; the scores are raw."
    )
    rules: ClassVar = RULES
    differs = (
        "The target is the best return of the data, in its unit of clipped rewards; the paper names one for each game.",
        "Positions, learning rate schedule and windows are those of the preset `atari`; its description says what differs.",
        "%BC and behavior cloning are the same model and training without returns, with the best 25 % of timesteps or all.",
        "Where no random player's score is known, the margin of %BC is 5 % of the way from the data's mean to its best return.",
        "The mean of the data is of clipped returns, the scores are raw; the first rule is easier to pass the more a game gives at once.",
    )
    unknown = ("This experiment was run here on small folders only, because the published files cannot be reached.",)

    def recipe(self, setup: Setup) -> JSON:
        """Return the published sizes, which differ for Pong."""
        is_pong = setup.game == "Pong"
        batch_size = 512 if is_pong else 128
        options = {
            "windows.context_length": 50 if is_pong else 30,
            "training.batch_size": batch_size,
            "training.train_steps": 5 * STEPS // batch_size,
        }
        return {
            "games": {setup.game: {"steps": 0 if setup.quick else STEPS, "max_steps": 60 if setup.quick else None}},
            "protocol": PROTOCOL,
            "evaluation_episodes": 2 if setup.quick else 10,
            "preset": "atari",
            "options": options,
            "game_options": {},
            "actions": {},
            "quick_options": _QUICK if setup.quick else {},
            "arms": ARMS,
        }

    def prepare(self, setup: Setup) -> JSON:
        """Draw the transitions, and say what the experiment costs."""
        if not setup.quick:
            log.info(
                f"note: {len(self.cells(setup))} policies are trained with the published sizes ({_updates(self.recipe(setup))}), and "
                f"500,000 frames take 3.5 GB in {setup.runs}; finished policies are kept, and the same command continues"
            )
        return super().prepare(setup)

    def games(self, setup: Setup) -> list[str]:
        """Return the one game."""
        if setup.game is None or setup.replay is None:
            raise RLTransformerError("no replay buffers are named", where="--game, --replay", fix="give both")
        return [setup.game]

    def rule(self, game: str, name: str) -> str:
        """Return the name of a rule, of which there is one for the one game."""
        return name

    def dataset(self, game: str, setup: Setup) -> TrajectoryDataset:
        """Draw the transitions from the buffers, once, and open them."""
        folder = find_folder(user_path(setup.replay or ""))
        steps = self.recipe(setup)["games"][game]["steps"]
        source = stream_trajectories(f"dqn-replay:{folder}?game={game}&steps={steps}")
        # Two folders of one game are two data sets.
        files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
        identity = hashlib.sha256(repr((str(folder.resolve()), files)).encode()).hexdigest()[:16]
        name = f"replay-{game.lower()}-{steps}-{identity}"
        stored = cached_dataset(
            setup, name, lambda output: write_store(output, source.spec, source.trajectories, notes=source.notes)
        )
        return open_trajectories(f"rlt:{stored}")


def _updates(recipe: JSON) -> str:
    """Return how much a policy is trained."""
    options = recipe["options"]
    return (
        f"{options['training.train_steps']:,} updates of {options['training.batch_size']} windows of "
        f"{options['windows.context_length']} frames each"
    )
