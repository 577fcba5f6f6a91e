"""Tell from a file or folder which URI names it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from rl_transformer.runtime.paths import user_path

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TABLES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npz": "npz",
}


@dataclass(frozen=True)
class _Found:
    """What a path names."""

    scheme: str
    path: str
    """The path in its URI."""
    what: str
    needs: str = ""
    """What has to be set, besides, to open it."""


def minari_root() -> Path:
    """Return the folder below which Minari keeps datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").expanduser()


def suggest_uri(path: str, scheme: str, *, has_scheme: bool, options: str = "") -> tuple[str, str | None] | None:
    """Return what is wrong with the scheme of a path, and a better URI if there is one; None if the scheme may be right.

    Args:
        path: The path, without the scheme.
        scheme: Its scheme, ``rlt`` if none was given.
        has_scheme: Whether a scheme was given.
        options: The options of the URI, from its question mark on.
    """
    # Plugins decide themselves what they read.
    if scheme not in ("rlt", "d4rl", "minari"):
        return None
    found = _find(user_path(path))  # refuses what can be no name, such as one that is too long
    if found is None:
        if scheme == "rlt" and Path(path).is_file():
            return "is a file of no known format, and a store is a folder", None
        return None
    # Compared as paths: "walks/" and "./walks" name the same store as "walks".
    is_same = found.scheme == scheme and path and Path(found.path) == Path(path)
    if is_same or (found.scheme == scheme == "minari"):
        return None
    problem = f"is {found.what}, not a store" if scheme == "rlt" and found.scheme != "rlt" else f"is {found.what}"
    hint = "" if has_scheme or found.scheme == "rlt" else "; a path without a scheme names a store"
    return problem + hint, f"{found.scheme}:{found.path}{options}{found.needs}"


def no_store(folder: Path) -> tuple[str, str] | None:
    """Return what a folder is, and what to do, if it is no store; None if it is one, perhaps a damaged one."""
    if (folder / "store.json").exists() or (folder / "offsets.npy").exists():
        return None
    named = "name a store written by rlt collect or rlt convert"
    run = f"{named}; the data of the run is dataset.uri in its config.json"
    if (folder / "run.json").exists() or (folder / "checkpoints").is_dir():
        return "is a run of rlt train, not a store", run
    if (folder / "policy.json").exists():
        return "is a policy, not a store", named
    if (folder / "manifest.json").exists():
        return None
    if next(folder.glob("seed-*/run.json"), None) is not None:
        return "is a folder of rlt train --seeds, not a store", run
    inside = sorted(path.parent for path in folder.glob("*/store.json"))
    if inside:
        return "holds no store itself", f"name one of those in it: {', '.join(map(str, inside[:8]))}"
    return f"holds no store{'' if any(folder.iterdir()) else ': it is empty'}", named


def no_such_path(path: Path) -> tuple[str, str]:
    """Return the problem and the fix for the path of a store that does not exist, or is a file."""
    fix = "name a store written by rlt collect or rlt convert"
    if path.exists():
        return "is a file, and a store is a folder", fix
    if path.suffix.lower() in (".hdf5", ".h5"):
        return "no such file", f"check the path; a file of D4RL is named as d4rl:{path}"
    return f"no such {'file or ' if path.suffix else ''}folder", fix


def _find(path: Path) -> _Found | None:
    """Return what a file or folder is; None if nothing is known of it."""
    if path.is_file():
        if _begins_as_hdf5(path):
            # Minari keeps its files in a folder "data" below the folder of the dataset.
            folder = path.parent.parent
            if path.parent.name == "data" and (path.parent / "metadata.json").is_file():
                return _minari(folder)
            return _Found("d4rl", str(path), "an HDF5 file")
        if path.suffix.lower() == ".pkl":
            return _Found("kzl-pickle", str(path), "a pickled file")
        table = next((scheme for ending, scheme in _TABLES.items() if path.name.lower().endswith(ending)), None)
        if table is not None:
            return _Found(table, str(path), "a table")
        is_in_store = (path.parent / "store.json").is_file()
        return _Found("rlt", str(path.parent), "a file of a store") if is_in_store else None
    if (path / "store.json").is_file():
        return _Found("rlt", str(path), "a store")
    if (path / "data" / "metadata.json").is_file():
        return _minari(path)
    if (path / "meta" / "info.json").is_file() and (path / "data").is_dir():
        return _Found("lerobot", str(path), "a LeRobot recording")
    if path.is_dir() and any(path.glob("$store$_action_ckpt.*.gz")):
        return _Found("dqn-replay", str(path), "a folder of replay buffers")
    # An id without its scheme.
    if (
        not path.is_absolute()
        and ".." not in path.parts
        and (minari_root() / path / "data" / "metadata.json").is_file()
    ):
        return _Found("minari", str(path), "a Minari dataset")
    return None


def _minari(folder: Path) -> _Found:
    """Return the URI of the Minari dataset in a folder."""
    root = minari_root().resolve()
    folder = folder.resolve()
    if folder.is_relative_to(root):
        return _Found("minari", folder.relative_to(root).as_posix(), "a Minari dataset")
    # Elsewhere, the id in the metadata tells which of the folders above it is the root, if it is the folder's own.
    try:
        names = str(json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))["dataset_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names = folder.name
    parts = names.split("/")
    if list(folder.parts[-len(parts) :]) != parts:
        parts = [folder.name]
    above = folder.parents[len(parts) - 1]
    return _Found("minari", "/".join(parts), "a Minari dataset", f", with MINARI_DATASETS_PATH={above}")


def _begins_as_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5)) == _HDF5
    except OSError:
        return False
