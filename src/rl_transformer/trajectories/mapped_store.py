"""Map the columns of a store into memory, after checking that they are those of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.files import MANIFEST, verify_folder
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.paths import below
from rl_transformer.runtime.plugins import refuse_named_plugins
from rl_transformer.runtime.reading import check_format, check_limit, read_json
from rl_transformer.runtime.types import JsonObject
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.columns import EPISODE_COLUMNS, STEP_COLUMNS, Summary, column_file
from rl_transformer.trajectories.data_spec import DataSpec
from rl_transformer.trajectories.end_flags import flag_kind
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.mixed_rows import num_numbers
from rl_transformer.trajectories.sharded_column import Column, ShardedColumn
from rl_transformer.trajectories.statistics import ObservationStatistics
from rl_transformer.trajectories.store_files import SHARDED_FORMAT_VERSION, store_folder
from rl_transformer.trajectories.suggestions import no_store, no_such_path
from rl_transformer.trajectories.wide_rows import row_shape

# Files that every store has, beside those of its step columns. Final observations and statistics depend on the data.
_REQUIRED = ("store.json", *(f"{name}.npy" for name in EPISODE_COLUMNS[:-1]))


def map_store(folder: str | Path, *, verify: bool = False) -> tuple[DataSpec, dict[str, Column], Summary]:
    """Return the spaces of a store, its columns of steps, mapped into memory, and its summary; see `store.open_store`.

    Args:
        folder: A folder written by `store_files.write_columns` or `shards.join_shards`.
        verify: Compare the hash of every file, which reads all bytes; otherwise only existence and sizes are checked.

    Raises:
        RLTransformerError: The folder is missing, damaged or of a later version, or its columns do not fit each other.
    """
    if not str(folder):
        raise RLTransformerError(
            "no path is given, so there is no store",
            where="store",
            fix="name a store written by rlt collect or rlt convert",
        )
    folder = store_folder(folder)
    again = "write the store again with rlt convert or rlt collect"
    other = no_store(folder) if folder.is_dir() else no_such_path(folder)
    if other is not None:
        raise RLTransformerError(other[0], where=folder, fix=other[1])
    manifest = verify_folder(folder, required=_REQUIRED, hashes=verify)
    info = read_json(below(folder, "store.json"), fix=again)
    check_format(info, SHARDED_FORMAT_VERSION, where=folder / "store.json")
    refuse_named_plugins(info, where=folder / "store.json")
    spec = DataSpec.from_dict(info, where=folder / "store.json")
    files = manifest["files"]
    # The folders that hold the step columns: shards in order, or the store itself.
    places = [f"{name}/" for name in _shard_names(info, folder, again)] or [""]
    missing = {f"{place}{name}.npy" for place in places for name in STEP_COLUMNS} - set(files)
    if missing:
        raise RLTransformerError(f"does not list {', '.join(sorted(missing))}", where=folder / MANIFEST, fix=again)
    # Only files that the manifest lists are opened: their sizes were checked, and a stray file in the folder is
    # ignored.
    names = [name for name in files if name.endswith(".npy") and "/" not in name]
    arrays = {name.removesuffix(".npy"): _map(below(folder, name), again) for name in names}
    try:
        steps = {
            name: _column(folder, [p + column_file(name) for p in places], files, again)
            for name in info["step_columns"]
        }
        summary = _summary(info, arrays, _content_hash(files, places))
        consistent = _is_consistent(spec, steps, summary)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        # Hashes show damage, not a store that some other program wrote in a wrong way.
        raise RLTransformerError(f"a field is missing or malformed: {error}", where=folder, fix=again) from None
    if not consistent:
        raise RLTransformerError(
            "columns are missing, or their shapes or types are not those of a store", where=folder, fix=again
        )
    summary.findings.extend(_swallowed_flags(spec, steps, summary.offsets))
    return spec, steps, summary


def _summary(info: JsonObject, arrays: dict[str, np.ndarray], content: str) -> Summary:
    """Return what a store says of its episodes and of the whole data.

    Raises:
        KeyError: An array or a field is missing.
    """
    return Summary(
        offsets=arrays["offsets"],
        terminated=arrays["terminated"],
        truncated=arrays["truncated"],
        episode_returns=arrays["episode_returns"],
        final_observations=arrays.get("final_observations"),
        statistics=ObservationStatistics(arrays["observation_mean"], arrays["observation_std"])
        if "observation_mean" in arrays
        else None,
        findings=[Finding.from_dict(finding) for finding in info["findings"]],
        fingerprint=str(info["fingerprint"]),
        content=content,
    )


def _shard_names(info: JsonObject, folder: Path, fix: str) -> list[str]:
    """Return the names of a store's shards, in order; none if it has its columns itself."""
    names = info.get("shards", [])
    if not isinstance(names, list) or len(set(map(str, names))) < len(names):
        raise RLTransformerError("the list of shards is malformed", where=folder / "store.json", fix=fix)
    check_limit("shards", len(names), where=folder / "store.json", fix=fix)
    # A shard is a folder in this one. Anything else could be a file of the user that the store has no business with.
    for name in names:
        if "/" in str(name) or not below(folder, str(name)).is_dir():
            raise RLTransformerError(f"there is no shard {name!r:.100}", where=folder, fix=fix)
    return list(map(str, names))


def _column(folder: Path, names: list[str], files: JsonObject, fix: str) -> Column:
    """Return a column that lies in the files ``names``, one per shard, all of which have to be among ``files``."""
    parts = [_map(below(folder, name), fix) for name in names if files[name]]
    return parts[0] if len(parts) == 1 else ShardedColumn(parts)


def _content_hash(files: JsonObject, places: list[str]) -> str:
    """Return a hash of the columns' own hashes. The fingerprint is a text in store.json, which need not follow them."""
    names = [f"{place}{name}.npy" for place in places for name in STEP_COLUMNS]
    return hashlib.sha256("".join(files[name]["sha256"] for name in [*names, "offsets.npy"]).encode()).hexdigest()


def _swallowed_flags(spec: DataSpec, steps: Mapping[str, Column], offsets: np.ndarray) -> list[Finding]:
    """Return findings about flags of episode ends among the further columns."""
    # Earlier versions took flags of most names for further columns, and joined the episodes between them. Only columns
    # with such a name are read here.
    flags = {name: column for name, column in steps.items() if flag_kind(name) is not None}
    checker = Checker(spec)
    for episode in range(len(offsets) - 1) if flags else ():
        rows = slice(int(offsets[episode]), int(offsets[episode + 1]))
        checker.check_flags(episode, {name: column[rows] for name, column in flags.items()})
    return checker.findings


def _is_consistent(spec: DataSpec, steps: Mapping[str, Column], summary: Summary) -> bool:
    """Return True if the shapes of all columns fit the spaces and the offsets."""
    offsets = summary.offsets
    space = spec.observation_space
    # Gathering indexes the columns by offsets without further checks. Wrong offsets would silently mix up episodes.
    if (
        offsets.dtype != np.int64
        or offsets.ndim != 1
        or len(offsets) < 2
        or offsets[0] != 0
        or (np.diff(offsets) < 1).any()
    ):
        return False
    # The first version wrote one-hot vectors in every case, and nothing else has two forms.
    stored = steps["observations"].shape[1:]
    is_row = stored in (space.flat_shape, row_shape(space))
    rows = {"observations": stored, "actions": spec.action_space.action_shape, "rewards": (), "returns_to_go": ()}
    dtypes = {
        "observations": {np.dtype(np.float32), np.dtype(np.uint8)},
        "actions": {np.dtype(np.float32)} if spec.action_space.is_continuous else {np.dtype(np.int64)},
        "rewards": {np.dtype(np.float64)},
        "returns_to_go": {np.dtype(np.float32)},
    }
    if any(steps[name].dtype not in allowed for name, allowed in dtypes.items()):
        return False
    if any(column.dtype.kind not in "biuf" or not column.dtype.isnative for column in steps.values()):
        return False
    per_episode = (summary.terminated, summary.truncated, summary.episode_returns)
    return (
        is_row
        and all(len(column) == offsets[-1] for column in steps.values())
        and all(steps[name].shape[1:] == row for name, row in rows.items())
        and all(column.shape == (len(offsets) - 1,) and column.dtype.kind in "bf" for column in per_episode)
        and (summary.statistics is None or _fit(summary.statistics, num_numbers(space)))
    )


def _fit(statistics: ObservationStatistics, numbers: int) -> bool:
    return all(part.shape == (numbers,) and part.dtype.kind == "f" for part in (statistics.mean, statistics.std))


def _map(path: Path, fix: str) -> np.ndarray:
    """Return the array in a .npy file without reading it; pages are loaded on first access."""
    try:
        # Mode "c" is copy-on-write: torch.from_numpy warns about read-only arrays, and this one counts as writable
        # although the file can never change. Nothing writes to it, so all processes share the pages.
        # asarray drops the memmap subclass, whose overhead on every access exceeds the cost of the slice itself.
        mapped = np.load(path, mmap_mode="c", allow_pickle=False, max_header_size=LIMITS["npy_header_bytes"].most)
        if not isinstance(mapped, np.ndarray):  # NumPy opens every zip archive, whatever its name
            raise ValueError("it is an archive of several arrays")
        return np.asarray(mapped)
    except (ValueError, OSError, EOFError, SyntaxError, TokenError, TypeError, OverflowError) as error:
        # NumPy reads the header as a Python literal, whose damage shows in many ways.
        problem = f"cannot be mapped: {' '.join(str(error).split())[:200]}"
        raise RLTransformerError(problem, where=path, fix=fix) from None
