"""Define the return, and choose the episodes to train on and the episodes to hold out.

Shapes: E episodes, X of them to train on, V of them held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl_transformer.conditions import ReturnToGo
from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.random_streams import Stream, generator
from rl_transformer.runtime.shapes import Float, Int
from rl_transformer.trajectories.dataset import TrajectoryDataset
from rl_transformer.trajectories.inspection import learning_summary


@dataclass(frozen=True)
class EpisodeSplit:
    """Indices of episodes."""

    train: Int[np.ndarray, "X"]
    """Episodes to train on."""
    held_out: Int[np.ndarray, "V"]
    """Episodes on which the action error is measured; empty without a validation fraction."""


@dataclass(frozen=True)
class SelectedData:
    """Holds the data of a run, with its definition of the return and its split into episodes."""

    dataset: TrajectoryDataset
    returns: ReturnToGo
    """The run's definition of the return."""
    episode_returns: np.ndarray
    """(E,) return of each episode by that definition, in the data's units."""
    split: EpisodeSplit
    """Episodes to learn from, and episodes that are held out."""

    def summary(self) -> str:
        """Return what a run learns from, and what a user should know about it."""
        episodes = self.split.train
        text = learning_summary(self.dataset, episodes, self.episode_returns, self.returns.note)
        warning = self.returns.cut_warning(self.dataset, episodes)
        return text if warning is None else f"{text}\n{warning}"


def select_data(dataset: TrajectoryDataset, config: RunConfig) -> SelectedData:
    """Define the return and select the episodes to learn from.

    Raises:
        RLTransformerError: No episode remains, or the data lacks a column that a condition needs.
    """
    # The return comes first, because episodes are selected by it (top_fraction, min_return).
    returns = ReturnToGo.from_data(dataset, config)
    episode_returns = returns.totals(dataset)
    return SelectedData(dataset, returns, episode_returns, split_episodes(dataset, episode_returns, config))


def split_episodes(dataset: TrajectoryDataset, returns: Float[np.ndarray, "E"], config: RunConfig) -> EpisodeSplit:
    """Filter the episodes according to ``dataset.*`` and split off those to hold out.

    Args:
        dataset: The data.
        returns: The return of each episode.
        config: The run's options.

    Raises:
        RLTransformerError: No episode is left, or windows would never see how an episode ends.
    """
    options = config.dataset
    chosen = np.arange(dataset.num_trajectories)[: options.max_trajectories]
    if options.min_return is not None:
        chosen = chosen[returns[chosen] >= options.min_return]
        if not chosen.size:
            raise RLTransformerError(
                f"no episode has a return of {options.min_return:g} or more; the largest is {returns.max():g}",
                where="dataset.min_return",
                fix=f"choose {returns.max():g} or less",
            )
    if options.top_fraction < 1:
        chosen = chosen[top_trajectories(returns[chosen], dataset.lengths[chosen], options.top_fraction)]
    train, held_out = split_trajectories(len(chosen), options.validation_fraction, seed=config.training.seed)
    split = EpisodeSplit(chosen[train], chosen[held_out])
    _check_windows_reach_the_end(int(dataset.lengths[split.train].max()), config)
    return split


def _check_windows_reach_the_end(longest: int, config: RunConfig) -> None:
    if config.windows.start == "first" and longest > config.window_length:
        longer = "context_length" if config.model.attention == "full" else "window_length"
        raise RLTransformerError(
            f"an episode has {longest} steps, and windows that begin with it end after {config.window_length}",
            where="windows.start",
            fix=f"set windows.start to any, or windows.{longer} to {longest}",
        )


def top_trajectories(
    episode_returns: Float[np.ndarray, "E"], lengths: Int[np.ndarray, "E"], fraction: float
) -> Int[np.ndarray, "X"]:
    """Return the best episodes that hold at most ``fraction`` of all *timesteps*, but at least one episode.

    This is the %BC filter of the paper's code (kzl `experiment.py`, with ``<=``).
    """
    order = np.argsort(-episode_returns, kind="stable")
    steps = np.cumsum(lengths[order])
    # The factor absorbs rounding: as a float, 0.29 * 100 is a little less than 29.
    count = max(1, int(np.searchsorted(steps, fraction * steps[-1] * (1 + 1e-12), side="right")))
    return np.sort(order[:count])


def split_trajectories(
    num_trajectories: int, fraction: float, *, seed: int
) -> tuple[Int[np.ndarray, "X"], Int[np.ndarray, "V"]]:
    """Split episodes into those to train on and a fraction to hold out, by a draw that depends on the seed alone."""
    if not fraction:
        return np.arange(num_trajectories), np.arange(0)
    held_out = max(1, round(fraction * num_trajectories))
    if not 0 < fraction < 1 or held_out >= num_trajectories:
        raise RLTransformerError(
            f"holding out {fraction} of {num_trajectories} episodes leaves none to train on",
            where="dataset.validation_fraction",
            fix="choose a smaller fraction, or 0",
        )
    order = generator(Stream.VALIDATION_SPLIT, seed, 0).permutation(num_trajectories)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
