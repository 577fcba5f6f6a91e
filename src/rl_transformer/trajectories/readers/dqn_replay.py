"""Read the replay buffers that Dopamine writes (Castro et al. 2018), such as the DQN replay dataset of Agarwal et al. 2020.

A buffer is four gzipped .npy files of equal length, in the order of play. Steps of one buffer follow one another, and a
step whose terminal flag is set ends its episode.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.files import MANIFEST, verify_folder
from rl_transformer.runtime.paths import user_path
from rl_transformer.trajectories.atari_games import NUM_ACTIONS
from rl_transformer.trajectories.checks import Finding
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.readers.dqn_replay_buffers import (
    Buffer,
    buffer_numbers,
    check_same_shapes,
    find_folder,
)
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.trajectory import Trajectory


class DQNReplayReader:
    """Reads a folder of replay buffers, one chunk of steps at a time, whatever the size of the buffers.

    With ``steps`` it draws from the buffers as the published code does (kzl `atari/create_dataset.py`): a buffer is drawn at
    random, and the next ``episodes_per_draw`` episodes of it that were not used yet are taken, until there are at least
    ``steps`` steps. Without it, every buffer is read in order.

    Steps after a buffer's last terminal belong to an episode whose end is in no file. They are left out and counted.
    """

    usage: ClassVar[str] = "dqn-replay:FOLDER"
    options: ClassVar[Mapping[str, ReaderOption]] = {
        "steps": ReaderOption(0, "Draw episodes at random until there are this many steps; 0: read everything.", int),
        "seed": ReaderOption(0, "Seed of these draws.", int),
        "episodes_per_draw": ReaderOption(10, "Episodes that are taken from a buffer at each draw.", int),
        "buffers": ReaderOption(0, "Use only the last N buffers; 0: all.", int),
        "game": ReaderOption("", "The game, such as Pong; by default one that a folder of the path names."),
    }

    def open(self, path: str, *, steps: int, seed: int, episodes_per_draw: int, buffers: int, game: str) -> Source:
        """Open the buffers of a folder; their steps are read when the episodes are.

        Raises:
            RLTransformerError: A file is missing, damaged, or belongs to another kind of buffer.
        """
        for option, value in {"steps": steps, "seed": seed, "buffers": buffers}.items():
            _check_option(value >= 0, path, option, value, "0 or more")
        _check_option(episodes_per_draw >= 1, path, "episodes_per_draw", episodes_per_draw, "1 or more")
        folder = find_folder(user_path(path))
        name = _game_of(folder, game)
        if (folder / MANIFEST).exists():  # a folder that this library wrote
            verify_folder(folder, hashes=False)
        numbers = buffer_numbers(folder)
        _check_option(buffers <= len(numbers), path, "buffers", buffers, f"at most {len(numbers)}")
        chosen = [Buffer(folder, number) for number in numbers[-buffers:]]
        check_same_shapes(chosen, folder)
        actions, notes = _count_actions(chosen, name, folder)
        spec = DataSpec(
            Space("box", shape=(1, *chosen[0].shape), dtype="uint8", low=(0.0,), high=(255.0,)),
            Space("discrete", n=actions),
            source=str(path),
            env_id=None if name is None else f"ALE/{name}-v5",
        )
        episodes = _draw(chosen, steps, seed, episodes_per_draw, notes, folder) if steps else _in_order(chosen, notes)
        return Source(spec, episodes, notes)


def _check_option(holds: bool, path: str, name: str, value: int, bounds: str) -> None:
    if not holds:
        raise RLTransformerError(f"{name} is {value}", where=f"dqn-replay:{path}", fix=f"give {bounds}")


def _game_of(path: Path, game: str) -> str | None:
    """Return the game that the option or a folder of the path names.

    Raises:
        RLTransformerError: The option is not a game, or the path names another one.
    """
    if game and game not in NUM_ACTIONS:
        fix = f"{did_you_mean(game, NUM_ACTIONS)}write it as in ALE/NAME-v5, for example Pong"
        raise RLTransformerError(f"there is no game {game!r}", where="game", fix=fix)
    named = next((part for part in reversed(path.parts) if part in NUM_ACTIONS), None)
    if game and named and named != game:
        raise RLTransformerError(
            f"is a folder of {named}, and the game is said to be {game}",
            where=path,
            fix=f"name the folder of {game}, or leave the option game out",
        )
    return game or named


def _count_actions(buffers: list[Buffer], game: str | None, folder: Path) -> tuple[int, list[Finding]]:
    """Return the number of actions: the game's, or a guess from the data together with a finding.

    Raises:
        RLTransformerError: The data holds an action that the game does not have.
    """
    largest = max(buffer.largest_action() for buffer in buffers)
    if game is None:
        problem = f"no game is named, so the actions 0 to {largest} of the data are taken for all there are"
        fix = "append ?game=NAME to the URI, for example ?game=Pong"
        return largest + 1, [Finding("info", "guessed actions", "actions", problem, fix, 1)]
    if largest >= NUM_ACTIONS[game]:
        raise RLTransformerError(
            f"holds the action {largest}, and {game} has the actions 0 to {NUM_ACTIONS[game] - 1}",
            where=folder,
            fix="name the folder of this game, or the right game",
        )
    return NUM_ACTIONS[game], []


def _in_order(buffers: list[Buffer], notes: list[Finding]) -> Iterator[Trajectory]:
    """Yield the episodes of all buffers."""
    with tqdm(total=len(buffers), unit="buffer", disable=not sys.stderr.isatty()) as bar:
        for buffer in buffers:
            yield from buffer.episodes(notes)
            bar.update()


def _draw(
    buffers: list[Buffer], steps: int, seed: int, episodes_per_draw: int, notes: list[Finding], folder: Path
) -> Iterator[Trajectory]:
    """Yield episodes of buffers that are drawn at random, until there are ``steps`` steps.

    Raises:
        RLTransformerError: The buffers hold fewer steps.
    """
    random = np.random.default_rng(seed)
    # A buffer stays open between its draws: gzip can only be read from the beginning.
    reading = {buffer.number: buffer.episodes(notes) for buffer in buffers}
    taken = 0
    with tqdm(total=steps, unit="step", disable=not sys.stderr.isatty()) as bar:
        while taken < steps:
            if not reading:
                raise RLTransformerError(
                    f"has {taken} steps in whole episodes, and {steps} are to be drawn",
                    where=folder,
                    fix="ask for fewer steps, or leave the option steps out to read everything",
                )
            number = sorted(reading)[int(random.integers(len(reading)))]
            drawn = 0
            for episode in islice(reading[number], episodes_per_draw):
                drawn += 1
                taken += len(episode.rewards)
                bar.update(len(episode.rewards))
                yield episode
                if taken >= steps:
                    return
            if drawn < episodes_per_draw:
                del reading[number]
