"""Read Minari datasets from the local disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rl_transformer.errors import RLTransformerError, require
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.reading import read_json
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.end_flags import flag_at_end
from rl_transformer.trajectories.environment_advice import wrapper_text
from rl_transformer.trajectories.gymnasium_spaces import space_from_gymnasium
from rl_transformer.trajectories.readers.interface import ReaderOption, Source
from rl_transformer.trajectories.spaces import Space
from rl_transformer.trajectories.suggestions import minari_root
from rl_transformer.trajectories.trajectory import Trajectory, split_final

_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)*[A-Za-z0-9][\w.-]*-v\d+")
# They record or show episodes, and change nothing that a policy sees.
_RECORDING_WRAPPERS = ("DataCollector", "RecordVideo", "RecordEpisodeStatistics", "RenderCollection", "HumanRendering")


class MinariReader:
    """Reads a local Minari dataset, HDF5 or Arrow; nothing is downloaded.

    The environment that the dataset names is shown as text and never made. Every episode has T + 1 observations, of
    which the last is the final one.
    """

    usage: ClassVar[str] = "minari:NAMESPACE/NAME-v0"
    options: ClassVar[Mapping[str, ReaderOption]] = {}

    def open(self, path: str) -> Source:
        """Open the dataset with the id ``path``.

        Raises:
            RLTransformerError: The id is malformed, the dataset is not on this machine, or its spaces are missing or
                not supported.
        """
        require("minari", extra=None, purpose="reading a minari: URI")
        folder = _folder(path)
        metadata = _read_metadata(folder / "data" / "metadata.json", path)
        dataset, observation, action = _open(folder, path)
        spec = DataSpec(observation, action, f"minari:{path}", **_environment(metadata))
        return Source(spec, _episodes(dataset, folder))


def _read_metadata(file: Path, dataset_id: str) -> JsonObject:
    """Return the content of metadata.json, after checking that it has both spaces.

    Raises:
        RLTransformerError: The file cannot be read, or a space is missing.
    """
    # If a space is missing, Minari makes the environment that the file names to get it. Making one can import and run
    # any module, so a downloaded dataset must not be able to cause it.
    metadata = read_json(file, fix=f"download it: minari download {dataset_id}, or set MINARI_DATASETS_PATH")
    missing = [name for name in ("observation_space", "action_space") if not metadata.get(name)]
    if missing:
        raise RLTransformerError(
            f"the metadata has no {' and no '.join(missing)}",
            where=file,
            fix="write the dataset again with both spaces, or use TrajectoryDataset.from_episodes",
        )
    return metadata


def _open(folder: Path, dataset_id: str) -> tuple[Any, Space, Space]:
    """Return Minari's dataset object, and the spaces of observations and actions."""
    from minari import MinariDataset

    from rl_transformer.trajectories.readers.hdf5 import open_hdf5

    # Minari opens the files itself and would follow links out of them, so they are checked first.
    for file in sorted((folder / "data").glob("*.hdf5")):
        open_hdf5(file).close()
    try:
        dataset = MinariDataset(folder / "data")
        spaces = (dataset.observation_space, dataset.action_space)
    except Exception as error:
        # Minari does not document what it raises for a damaged or newer dataset.
        fix = f"download it again: minari download {dataset_id}"
        if "does not support" in str(error):
            fix = "pip install --upgrade minari, or read it with the Minari that wrote it and rlt convert it there"
        raise RLTransformerError(f"Minari cannot open it: {error}", where=folder, fix=fix) from error
    observation, action = (space_from_gymnasium(space, where=f"minari:{dataset_id}") for space in spaces)
    return dataset, observation, action


def _folder(dataset_id: str) -> Path:
    """Return the folder of a dataset.

    Raises:
        RLTransformerError: The id is malformed, or there is no such dataset.
    """
    where = f"minari:{dataset_id}"
    if not _ID.fullmatch(dataset_id):
        raise RLTransformerError("is not a Minari id", where=where, fix="write it as minari:NAMESPACE/NAME-v0")
    root = minari_root()
    folder = user_path(root.joinpath(*dataset_id.split("/")))  # refuses a name that is too long for a file
    # The pattern excludes "..", but a symbolic link below the root may still point anywhere.
    if not folder.resolve().is_relative_to(root.resolve()):
        raise RLTransformerError(
            "resolves to a path outside the folder of datasets",
            where=where,
            fix="keep datasets, not links, below MINARI_DATASETS_PATH",
        )
    if not (folder / "data").is_dir():
        present = (
            sorted(p.parent.parent.relative_to(root).as_posix() for p in root.glob("**/data/metadata.json"))
            if root.is_dir()
            else []
        )
        raise RLTransformerError(
            f"no such dataset below {root}; there: {', '.join(present[:8]) or 'none'}",
            where=where,
            fix=f"minari download {dataset_id}, or set MINARI_DATASETS_PATH to the folder that holds it",
        )
    return folder


def _environment(metadata: JsonObject) -> JsonObject:
    """Return the fields of `DataSpec` about the dataset's environment, as far as the metadata has them."""
    # env_spec is JSON inside JSON and also holds an entry point. Only plain values are used, and only as text.
    try:
        environment = json.loads(metadata["env_spec"])
        found: JsonObject = {"env_id": str(environment["id"])}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    wrappers = environment.get("additional_wrappers")
    found["env_wrappers"] = tuple(_wrappers(wrappers)) if isinstance(wrappers, list) else ()
    kwargs = environment.get("kwargs")
    if isinstance(kwargs, dict):
        # How the recording was drawn does not change what the environment does, unless it is a part of observations.
        is_drawn = any(wrapper.startswith("AddRenderObservation") for wrapper in found["env_wrappers"])
        found["env_kwargs"] = {n: value for n, value in kwargs.items() if n != "render_mode" or is_drawn} or None
    limit = environment.get("max_episode_steps")
    if type(limit) is int and limit > 0:
        found["max_episode_steps"] = limit
    return found


def _wrappers(recorded: list[object]) -> Iterator[str]:
    """Yield the wrappers of the metadata, innermost first, in the form of `DataSpec.env_wrappers`."""
    for wrapper in recorded:
        if not isinstance(wrapper, dict) or wrapper.get("name") in _RECORDING_WRAPPERS:
            continue
        module, _, name = str(wrapper.get("entry_point")).rpartition(":")
        # A class of another package may have a name of gymnasium.wrappers, too.
        if not module or module.split(".")[:2] == ["gymnasium", "wrappers"]:
            name = str(wrapper.get("name"))
        else:
            name = f"{module}:{name}"
        arguments = wrapper.get("kwargs")
        yield wrapper_text(name, arguments if isinstance(arguments, dict) else None)


def _episodes(dataset: Any, folder: Path) -> Iterator[Trajectory]:
    """Yield the episodes one at a time.

    Raises:
        RLTransformerError: An episode cannot be read, or has a flag before its last step.
    """
    done = 0
    try:
        for episode in dataset.iterate_episodes():
            rewards = np.asarray(episode.rewards)
            observations, final = split_final(episode.observations, len(rewards))
            yield Trajectory(
                observations=observations,
                actions=np.asarray(episode.actions),
                rewards=rewards,
                terminated=flag_at_end(
                    episode.terminations, len(rewards), where=f"{folder}: episode {done}: terminations"
                ),
                truncated=flag_at_end(
                    episode.truncations, len(rewards), where=f"{folder}: episode {done}: truncations"
                ),
                final_observation=final,
            )
            done += 1
    except (OSError, RuntimeError, KeyError, ValueError, IndexError, AssertionError, TypeError) as error:
        # Minari and its file formats raise all of these for damaged files. An error of ours passes through unchanged.
        raise RLTransformerError(
            f"episode {done} cannot be read: {error}", where=folder, fix="download the dataset again"
        ) from error
