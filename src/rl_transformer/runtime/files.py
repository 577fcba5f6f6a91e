"""Write files and folders that are either complete or absent, and verify their hashes."""

from __future__ import annotations

import errno
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import disk
from rl_transformer.runtime.free_space import free_text
from rl_transformer.runtime.lock import owned
from rl_transformer.runtime.paths import below, refuse_special_file
from rl_transformer.runtime.reading import read_json, sha256
from rl_transformer.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-[0-9a-f]{8}")
_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def to_json(value: object) -> str:
    """Return ``value`` as strict JSON, without NaN, with sorted keys.

    Raises:
        ValueError: A number is not finite.
    """
    # Sorted keys make the same content the same bytes, so that hashes and diffs of files are meaningful.
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


class WriteError(RLTransformerError):
    """Raised if something cannot be written: the disk, and not what was to be written, is the cause."""


@contextmanager
def translate_write_errors(path: str | Path) -> Iterator[None]:
    """Translate an error of writing inside the block, such as a full disk, into one that names the path and the fix.

    Raises:
        WriteError: Writing failed.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fix = "name a folder that you may write to"
        if getattr(error, "errno", None) in _NO_SPACE or "os error 28" in reason or "os error 122" in reason:
            fix = f"free disk space there ({free_text(Path(path))} left), or name a folder on another disk"
        raise WriteError(f"cannot be written: {reason}", where=path, fix=fix) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably: a reader sees either the old text or the new one, also after a crash.

    Raises:
        RLTransformerError: Writing failed; the old file is unchanged.
    """

    def write(temporary: Path) -> None:
        with disk.DISK.create(temporary) as file:
            disk.DISK.write(file, text.encode("utf-8"))

    write_file(path, write)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, as `write_text` does."""
    write_file(path, lambda temporary: disk.DISK.save_tensors(temporary, tensors))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, as `write_text` does."""

    def write(temporary: Path) -> None:
        with disk.DISK.create(temporary) as file:
            # allow_pickle=False: an object array would be written in a form that can run code when it is read.
            np.save(file, array, allow_pickle=False)

    write_file(path, write)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file, as `write_text` does; ``write`` is given its temporary name, which has another suffix."""
    refuse_special_file(path)
    # In the same folder, because a rename is atomic only within one file system. The random suffix lets several
    # processes write the same file without mixing their content.
    temporary = _temporary_name(path, "tmp")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            # The content must be on disk before the rename is. In the other order, a power failure can leave the new
            # name with an empty file.
            disk.DISK.sync(temporary)
            disk.DISK.rename(temporary, path)
        except BaseException:  # also a signal: no temporary file may stay behind
            temporary.unlink(missing_ok=True)
            raise
        disk.DISK.sync_folder(path.parent)


def write_output(path: Path, content: str | Callable[[Path], None]) -> None:
    """Write a file that a user named, as `write_file` does, and remove what killed processes have left of it.

    Raises:
        RLTransformerError: Writing failed; an old file is unchanged.
    """
    refuse_special_file(path)  # before a lock is put beside it
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock tells what a killed process has left from what another one writes just now.
        with owned(_lock_of(path), what=path, wait=True):
            remove_leftovers(path.parent, of=path.name)
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_file(path, content)


def write_folder(folder: Path, fill: Callable[[Path], JsonMapping | None], *, replace: bool = True) -> None:
    """Write a folder that is either complete, with a manifest of its files, or absent.

    One process at a time writes a folder; what killed ones have left is removed.

    Args:
        folder: The folder.
        fill: Writes the files into the temporary folder that it is given; may return further fields of the manifest.
        replace: Replace an existing folder; otherwise one that is not empty is refused.

    Raises:
        RLTransformerError: Another process writes this folder, it exists, or writing failed; an existing folder is then
            unchanged.
    """
    # The order is: write and sync every file, write the manifest, rename, sync the parent. The manifest is the proof
    # that everything before it is on disk, so a folder without one is incomplete, whatever it contains.
    with translate_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with owned(_lock_of(folder), what=folder):
            _give_name_back(folder)
            if not replace:
                refuse_content(folder)
            remove_leftovers(folder.parent, of=folder.name)
            temporary = _temporary_name(folder, "tmp")
            disk.DISK.make_folder(temporary)
            try:
                write_manifest(temporary, fill(temporary) or {})
                if not replace:
                    refuse_content(folder)  # somebody else may have written it without our lock
                _replace(folder, temporary)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            disk.DISK.sync_folder(folder.parent)


def write_manifest(folder: Path, fields: JsonMapping, parts: Iterable[str] = ()) -> None:
    """Write the manifest of a folder whose other files are complete, durably.

    Args:
        folder: The folder.
        fields: Further fields of the manifest.
        parts: Folders inside of it that have manifests of their own, whose hashes are taken over without reading the files.
    """
    files: JsonObject = {}
    for part in parts:
        inside = read_json(folder / part / MANIFEST, fix="write the folder again")["files"]
        files.update({f"{part}/{name}": entry for name, entry in inside.items()})
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in files:
            continue
        # Libraries such as safetensors write files without a sync.
        disk.DISK.sync(path)
        files[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_text(folder / MANIFEST, to_json({**fields, "files": files}))


def _replace(folder: Path, temporary: Path) -> None:
    """Give ``temporary`` the name ``folder``, and remove what had it."""
    if not folder.exists():
        disk.DISK.rename(temporary, folder)
        return
    if disk.DISK.exchange(temporary, folder):
        disk.DISK.remove(temporary)
        return
    # A rename cannot replace a folder that is not empty, so the old one is moved out of the way first. If the process
    # is killed between the two renames, the old folder is complete under its other name, and `recover_folder` finds it.
    old = _temporary_name(folder, "old")
    disk.DISK.rename(folder, old)
    try:
        disk.DISK.rename(temporary, folder)
    except OSError:
        old.rename(folder)
        raise
    disk.DISK.remove(old)


def recover_folder(folder: Path) -> None:
    """Give a folder its name back if the process that replaced it was killed between its two renames."""
    # The lock tells a killed process from one that is just now between its renames. A folder that cannot be locked, for
    # example on a disk that cannot be written, stays as it is.
    if not folder.exists() and _leftovers(folder.parent, folder.name, "old"):
        with suppress(RLTransformerError, OSError), owned(_lock_of(folder), what=folder):
            _give_name_back(folder)


def _give_name_back(folder: Path) -> None:
    if folder.exists():
        return
    complete = [path for path in _leftovers(folder.parent, folder.name, "old") if (path / MANIFEST).is_file()]
    if complete:
        max(complete, key=lambda path: path.stat().st_mtime).rename(folder)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove temporary files and folders of killed processes; call this under the lock of what they belong to.

    Args:
        folder: The folder that holds them.
        of: Name of the file or folder whose temporary ones are removed; None: all in ``folder``.
    """
    for path in _leftovers(folder, of):
        disk.DISK.remove(path)


def _leftovers(folder: Path, name: str | None, kind: str | None = None) -> list[Path]:
    """Return the temporary files and folders in a folder, of one name or of all, of one kind or of both."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match and name in (None, match["name"]) and kind in (None, match["kind"]):
            found.append(path)
    return found


def _temporary_name(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{secrets.token_hex(4)}")


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def refuse_content(folder: Path) -> None:
    """Raise an `RLTransformerError` if there is something that would be lost."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RLTransformerError(
            "exists already and is not empty", where=folder, fix="name another folder, or remove this one"
        )


def verify_folder(folder: Path, *, required: Iterable[str] = (), hashes: bool = True) -> JsonObject:
    """Return a folder's manifest after checking every file that it names.

    Args:
        folder: A folder written by `write_folder`.
        required: Names of files that the manifest must list.
        hashes: Compare hashes, too, which reads every byte; otherwise only existence and size.

    Raises:
        RLTransformerError: The manifest or a file is missing, a required file is not listed, or a file has another size
            or content.
    """
    fix = "restore the folder from a copy, or write it again"
    recover_folder(folder)
    manifest = read_json(folder / MANIFEST, fix=fix)
    files = manifest.get("files")
    # An empty list of files would pass every check below, so the caller names the files that must be in it.
    if not isinstance(files, dict) or not set(required) <= set(files):
        problem = f"does not list {', '.join(required) or 'any file'}"
        raise RLTransformerError(problem, where=folder / MANIFEST, fix=fix)
    for name, expected in files.items():
        path = below(folder, name)
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= set(expected):
            raise RLTransformerError(f"lacks the size or hash of {name}", where=folder / MANIFEST, fix=fix)
        if not path.is_file():
            raise RLTransformerError("is missing", where=path, fix=fix)
        # Sizes first: they cost nothing, and a file that was cut off is the most common damage.
        if path.stat().st_size != expected["bytes"]:
            problem = f"has {path.stat().st_size} bytes, not the {expected['bytes']} that were written"
            raise RLTransformerError(problem, where=path, fix=fix)
        if hashes and sha256(path) != expected["sha256"]:
            raise RLTransformerError("has changed since it was written (SHA-256 differs)", where=path, fix=fix)
    return manifest
