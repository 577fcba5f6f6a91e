"""Live episodes in batches: every target and every episode in one run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.evaluation.environments import check_spaces, make_environment
from rl_transformer.evaluation.processes import in_processes
from rl_transformer.files import writing
from rl_transformer.policy import Policy
from rl_transformer.trajectories.nested import stack

MAX_LIVE = 256
WORTH_A_PROCESS = 16
"""Episodes for which it pays to start one more process."""


@dataclass
class Episode:
    """One live episode: what was asked, and what came of it."""

    target_return: float | None
    seed: int
    episode_return: float = 0.0
    episode_length: int = 0
    frames: list[np.ndarray] = field(default_factory=list)


def run_episodes(
    policy: Policy,
    env_id: str,
    targets: Sequence[float | None],
    seeds: Sequence[int],
    *,
    record: int = 0,
    max_live: int = MAX_LIVE,
    processes: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Run one episode for each pair of target and seed, and return all of them in that order.

    Episodes act together, ``max_live`` at a time; a slot whose episode ends takes the next one.
    What an episode does depends on its target and seed alone, not on its neighbors.

    Args:
        policy: What acts.
        env_id: Gymnasium id.
        targets: Returns to ask for; None for policies that take none.
        seeds: Seeds of environment and policy, one an episode.
        record: Keep the frames of the first so many episodes.
        max_live: Environments at the same time, in each process.
        processes: Processes that share the episodes; as many as there are threads if not given and there are
            episodes enough. They change nothing but the time it takes.
        check: Called at every step; may raise to stop.
    """
    count = processes or _processes_for(policy, len(targets), record)
    if count == 1:
        return _run_here(policy, env_id, targets, seeds, record, max_live, check)

    def part(which: int) -> list[Episode]:
        return _run_here(policy, env_id, targets[which::count], seeds[which::count], 0, max_live, lambda: None)

    episodes: list[Episode] = [Episode(None, 0)] * len(targets)
    for which, found in enumerate(in_processes(part, count, check)):
        episodes[which::count] = found
    return episodes


def _processes_for(policy: Policy, num_episodes: int, record: int) -> int:
    """Return how many processes to share episodes among; only one where pictures or a GPU must not be shared."""
    shareable = not record and policy.device.type == "cpu" and "fork" in multiprocessing.get_all_start_methods()
    return max(1, min(torch.get_num_threads(), num_episodes // WORTH_A_PROCESS)) if shareable else 1


def _run_here(
    policy: Policy,
    env_id: str,
    targets: Sequence[float | None],
    seeds: Sequence[int],
    record: int,
    max_live: int,
    check: Callable[[], None],
) -> list[Episode]:
    episodes = [Episode(target, int(seed)) for target, seed in zip(targets, seeds, strict=True)]
    slots = min(max_live, len(episodes))
    environments = [make_environment(env_id, render=i < record) for i in range(slots)]
    try:
        check_spaces(environments[0], policy.spec.data, env_id)
        return _run(policy, environments, episodes, record, check)
    finally:
        for environment in environments:
            environment.close()


def _run(
    policy: Policy, environments: list[Any], episodes: list[Episode], record: int, check: Callable[[], None]
) -> list[Episode]:
    slots = len(environments)
    running = list(range(slots))  # the episode in each slot
    waiting = iter(range(slots, len(episodes)))
    sessions = policy.sessions([e.target_return for e in episodes[:slots]], [e.seed for e in episodes[:slots]])
    observations = [env.reset(seed=episodes[i].seed)[0] for i, env in enumerate(environments)]
    live = list(range(slots))
    while live:
        check()
        actions = sessions.act(live, stack([observations[slot] for slot in live]))
        rewards, still_live = [], []
        for slot, action in zip(live, actions, strict=True):
            episode, environment = episodes[running[slot]], environments[slot]
            observations[slot], reward, terminated, truncated, _ = environment.step(action)
            episode.episode_return += float(reward)
            episode.episode_length += 1
            rewards.append(float(reward))
            if running[slot] < record:
                episode.frames.append(environment.render())
            if not (terminated or truncated):
                still_live.append(slot)
        sessions.observe(live, rewards)
        for slot in sorted(set(live) - set(still_live)):
            following = next(waiting, None)
            if following is not None:
                running[slot], episode = following, episodes[following]
                sessions.reset([slot], [episode.target_return], [episode.seed])
                observations[slot] = environments[slot].reset(seed=episode.seed)[0]
                still_live.append(slot)
        live = sorted(still_live)
    return episodes


def check_video(path: str) -> None:
    """Refuse a video that could not be written, before anything is run.

    Raises:
        RLTransformerError: Another ending than .gif or .mp4, or no writer for it installed.
    """
    if Path(path).suffix not in (".gif", ".mp4"):
        raise RLTransformerError("is neither a .gif nor an .mp4", where=path, fix="end the file name with .gif or .mp4")
    writer = "PIL" if path.endswith(".gif") else "imageio_ffmpeg"
    require(writer, extra="video", purpose=f"writing a {Path(path).suffix}")


def save_video(frames: Sequence[np.ndarray], path: str, *, frames_per_second: int = 30) -> None:
    """Write frames as .gif or .mp4."""
    check_video(path)
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".gif"):
            from PIL import Image

            images = [Image.fromarray(frame) for frame in frames]
            duration = 1000 // frames_per_second
            images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)
        else:
            import imageio

            imageio.mimwrite(path, list(frames), fps=frames_per_second, macro_block_size=1)
