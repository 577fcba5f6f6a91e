"""Tell from a file or folder which URI names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

_HDF5 = b"\x89HDF\r\n\x1a\n"


def minari_root() -> Path:
    """Return the folder below which Minari keeps datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets").expanduser()


def suggest_uri(path: str, scheme: str, *, has_scheme: bool) -> tuple[str, str | None] | None:
    """Return what is wrong with the scheme of a path, and a better URI if there is one; None if the scheme may be right.

    Args:
        path: The path, without the scheme.
        scheme: Its scheme, ``rlt`` if none was given.
        has_scheme: Whether a scheme was given.
    """
    # Plugins decide themselves what they read.
    if scheme not in ("rlt", "d4rl", "minari"):
        return None
    found = _find(Path(path))
    if found is None:
        if scheme == "rlt" and Path(path).is_file():
            return "is a file of no known format, and a store is a folder", None
        return None
    if found[:2] == (scheme, path) or (found[0] == scheme == "minari"):
        return None
    problem = f"is {found[2]}, not a store" if scheme == "rlt" and found[0] != "rlt" else f"is {found[2]}"
    hint = "" if has_scheme or found[0] == "rlt" else "; a path without a scheme names a store"
    return problem + hint, f"{found[0]}:{found[1]}"


def _find(path: Path) -> tuple[str, str, str] | None:
    """Return the scheme, the path in the URI and a description of a file or folder; None if nothing is known of it."""
    if path.is_file():
        if _begins_as_hdf5(path):
            # Minari keeps its files in a folder "data" below the folder of the dataset.
            folder = path.parent.parent
            if path.parent.name == "data" and (path.parent / "metadata.json").is_file():
                return _minari(folder)
            return "d4rl", str(path), "an HDF5 file"
        return ("rlt", str(path.parent), "a file of a store") if (path.parent / "store.json").is_file() else None
    if (path / "store.json").is_file():
        return "rlt", str(path), "a store"
    if (path / "data" / "metadata.json").is_file():
        return _minari(path)
    if path.is_dir() and any(path.glob("$store$_action_ckpt.*.gz")):
        return "dqn-replay", str(path), "a folder of replay buffers"
    # An id without its scheme.
    if (
        not path.is_absolute()
        and ".." not in path.parts
        and (minari_root() / path / "data" / "metadata.json").is_file()
    ):
        return "minari", str(path), "a Minari dataset"
    return None


def _minari(folder: Path) -> tuple[str, str, str]:
    """Return scheme, path and description of the Minari dataset in a folder."""
    root = minari_root().resolve()
    folder = folder.resolve()
    if folder.is_relative_to(root):
        return "minari", folder.relative_to(root).as_posix(), "a Minari dataset"
    # Elsewhere, the id in the metadata tells which of the folders above it is the root, if it is the folder's own.
    try:
        names = str(json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))["dataset_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names = folder.name
    parts = names.split("/")
    if list(folder.parts[-len(parts) :]) != parts:
        parts = [folder.name]
    above = folder.parents[len(parts) - 1]
    return "minari", f"{'/'.join(parts)}, with MINARI_DATASETS_PATH={above}", "a Minari dataset"


def _begins_as_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_HDF5)) == _HDF5
    except OSError:
        return False
