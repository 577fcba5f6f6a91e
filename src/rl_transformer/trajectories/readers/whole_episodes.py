"""Make a source from whole episodes in memory, for formats that do not record the spaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.guessed_spaces import infer_action_space, infer_observation_space
from rl_transformer.trajectories.readers.interface import Source
from rl_transformer.trajectories.trajectory import Trajectory


def source_of(trajectories: list[Trajectory], name: str, where: object, notes: Iterable[Finding] = ()) -> Source:
    """Return a source with guessed spaces, and findings that describe the guesses.

    Raises:
        RLTransformerError: There is no episode, or it has observations of several parts, or actions that are no numbers.
    """
    observation_space, observation_notes = infer_observation_space(trajectories, where)
    action_space, action_notes = infer_action_space(trajectories, where)
    # A URI cannot give a space, hence the other way to do it.
    guesses = [
        replace(note, fix=f"read the file yourself, and use TrajectoryDataset.from_episodes: {note.fix}")
        for note in (*observation_notes, *action_notes)
    ]
    spec = DataSpec(observation_space, action_space, name)
    return Source(spec, iter(trajectories), [*notes, *guesses])
