"""Atari sizes: a training step, and games of Pong, ours against the published loop of images and buttons."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np
import torch

from rl_transformer.bench import timing
from rl_transformer.bench.published_atari import PIXELS, PublishedAtariModel, PublishedAtariTrainer, play
from rl_transformer.bench.train import PRECISIONS
from rl_transformer.bench.workloads import make_run
from rl_transformer.config import RunConfig
from rl_transformer.config.presets import atari
from rl_transformer.environments.atari import atari_arguments
from rl_transformer.environments.sources import EnvironmentSource, opened
from rl_transformer.evaluation.episode_loop import Assignment
from rl_transformer.evaluation.episodes import run_batch
from rl_transformer.policy import Policy
from rl_transformer.runtime.system import keep_freed_memory
from rl_transformer.runtime.types import JsonObject
from rl_transformer.training.updates import EagerUpdates
from rl_transformer.trajectories import DataSpec, Space, Trajectory, TrajectoryDataset

_ENV_ID = "ALE/Pong-v5"  # whose games are long, so that loading them weighs little
_GAMES = 10
_TARGET = 90.0
_COMPARED = (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"))


def bench_atari(*, repeats: int, max_steps: int) -> list[JsonObject]:
    """Time updates of the preset ``atari`` and games with an untrained policy of its size.

    Args:
        repeats: Rounds, in which all sides take turns.
        max_steps: Steps after which a game is cut off.
    """
    return [*_time_training(repeats), *_time_games(repeats, max_steps)]


def _time_training(repeats: int) -> list[JsonObject]:
    makers = {"ours": our_updates, "baseline": published_updates}
    sides = {
        f"{side} {precision}": partial(make, precision) for precision in PRECISIONS for side, make in makers.items()
    }
    # One update on full batches of images is long enough to be timed alone.
    times = timing.time_in_processes(sides, repeats=repeats, warmup=1, calls=1)
    rows = []
    for ours, baseline in _COMPARED:
        both = {"ours": times[f"ours {ours}"], "baseline": times[f"baseline {baseline}"]}
        config = make_config(ours)
        settings = {"batch_size": config.training.batch_size, "context_length": config.windows.context_length}
        row = timing.make_row(
            both, benchmark="atari", what="training step", dtype=ours, baseline_dtype=baseline, **settings
        )
        rows.append(row)
    return rows


def _time_games(repeats: int, max_steps: int) -> list[JsonObject]:
    """Time steps of games, with the same number of steps per game on both sides."""
    full = make_run(make_config("float32"), random_frames()).policy
    config = make_config("float32")
    config.model.attention = "sliding_window"
    sliding = make_run(config, random_frames()).policy
    model = published_model(make_config("float32"))
    arguments = atari_arguments(_ENV_ID, "paper")
    source = EnvironmentSource.of(_ENV_ID, **arguments)

    def ours(policy: Policy, games: int) -> tuple[float, int]:
        assignment = Assignment([_TARGET] * games, list(range(games)), max_steps=max_steps)
        began = time.perf_counter()
        episodes = run_batch(policy, source, assignment).episodes
        return time.perf_counter() - began, sum(episode.episode_length for episode in episodes)

    sides = {"one": (full, 1), "ten": (full, _GAMES), "sliding": (sliding, _GAMES)}
    seconds: dict[str, list[float]] = {**{name: [] for name in sides}, "baseline": []}
    for _ in range(repeats):
        for name, (policy, games) in sides.items():
            elapsed, steps = ours(policy, games)
            # Games may end at different steps, so that only the time of a step can be compared.
            seconds[name].append(elapsed / steps)
        began = time.perf_counter()
        _, steps = _published_game(model, source, max_steps)
        seconds["baseline"].append((time.perf_counter() - began) / steps)
    times = {name: timing.summarize(values) for name, values in seconds.items()}
    settings: JsonObject = {"env_id": _ENV_ID, "max_steps": max_steps, "context_length": model.context_length}
    named = (
        ("one", "step of one game"),
        ("ten", f"step of {_GAMES} games together, per game"),
        ("sliding", f"step of {_GAMES} games together, per game, sliding-window attention (ours)"),
    )
    return [
        timing.make_row(
            {"ours": times[name], "baseline": times["baseline"]},
            benchmark="atari",
            what=what,
            dtype="float32",
            **settings,
        )
        for name, what in named
    ]


def _published_game(model: PublishedAtariModel, source: EnvironmentSource, max_steps: int) -> tuple[float, int]:
    """Play one game with the published loop."""
    frames: list[np.ndarray] = []
    with opened(source) as live:
        environment = live.environment

        def stack() -> torch.Tensor:
            # The published model reads the last four frames as floats in [0, 1].
            return torch.from_numpy(np.stack(frames[-4:])).float()[None] / 255

        def reset() -> torch.Tensor:
            observation, _ = environment.reset(seed=0)
            # A game has no past at its beginning; the first frame stands in for it.
            frames.extend([observation] * 4)
            return stack()

        def step(action: int) -> tuple[torch.Tensor, float, bool]:
            observation, reward, terminated, truncated, _ = environment.step(action)
            frames.append(observation)
            return stack(), float(reward), terminated or truncated

        return play(model, reset, step, target_return=_TARGET, max_steps=max_steps)


def our_updates(precision: str) -> Callable[[], object]:
    """Return a function that makes our next update."""
    keep_freed_memory()  # as the training loop does
    trainer = make_run(make_config(precision), random_frames()).trainer
    # With dropout, which is a part of the cost of an update.
    trainer.model.train()
    updates = EagerUpdates(trainer)
    steps = count(1)
    return lambda: updates.run(next(steps), 1)


def published_updates(precision: str) -> Callable[[], object]:
    """Return a function that makes the published loop's next update."""
    config = make_config(precision)
    batch_size = config.training.batch_size
    return PublishedAtariTrainer(
        published_model(config), random_frames(), batch_size=batch_size, precision=precision
    ).update


def published_model(config: RunConfig) -> PublishedAtariModel:
    """Return a new published model of the sizes of a configuration."""
    model = make_run(config, random_frames()).policy.spec.model
    return PublishedAtariModel(model, config.windows.context_length)


def make_config(precision: str) -> RunConfig:
    """Return the preset ``atari`` at full size."""
    config = atari()
    config.dataset.uri = "synthetic"
    config.set("training.precision", precision)
    return config


def random_frames(episodes: int = 2, length: int = 1000) -> TrajectoryDataset:
    """Return games of random pixels with six actions."""
    # Nothing is learned here: what the pixels show does not change how long an update takes.
    random = np.random.default_rng(0)
    spec = DataSpec(Space.box((1, *PIXELS[1:]), 0, 255, dtype="uint8"), Space.discrete(6), "synthetic")
    return TrajectoryDataset.in_memory(
        spec,
        (
            Trajectory(
                random.integers(0, 256, (length, 1, *PIXELS[1:]), dtype=np.uint8),
                random.integers(0, 6, length),
                random.integers(0, 2, length).astype(np.float64),
                truncated=True,
            )
            for _ in range(episodes)
        ),
    )
