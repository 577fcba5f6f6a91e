"""Write files and folders that are either complete or absent, verify their hashes, and keep names below a root."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.system import sync_folder
from rl_transformer.runtime.types import JsonMapping, JsonObject

MANIFEST = "manifest.json"
# Dopamine's replay buffers are files such as $store$_action_ckpt.0.gz.
_NAME = re.compile(r"(?:\$store\$_)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def below(root: Path, name: str) -> Path:
    """Return ``root / name`` for a name that comes from a file or another untrusted source.

    Args:
        root: A folder.
        name: Parts separated by ``/``. Every part must start with a letter or digit and consist of letters, digits,
            ``.``, ``_`` and ``-``.

    Raises:
        RLTransformerError: The name has another form, or leads out of ``root``, for example through a symbolic link.
    """
    parts = name.split("/")
    path = root.joinpath(*parts)
    # Two independent checks. The pattern rejects "..", absolute paths, drive letters and control characters on any
    # platform; resolving rejects a link inside the folder that points elsewhere. A downloaded manifest can therefore
    # not make us read or overwrite a file of the user.
    if not all(_NAME.fullmatch(part) for part in parts) or not path.resolve().is_relative_to(root.resolve()):
        raise RLTransformerError(
            f"{name!r:.200} is not a name inside this folder",
            where=root,
            fix="use letters, digits, '.', '_' and '-', with '/' between the parts",
        )
    return path


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave, in which ``~`` stands for a home folder, as in a shell.

    Shells replace ``~`` only at the beginning of a word: not in ``--output=~/run``, not in ``rlt:~/data``, and not in
    Python.

    Raises:
        RLTransformerError: ``~NAME`` names a user that does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        fix = "write the home folder in full, or ./~ for a file whose name begins with ~"
        raise RLTransformerError(str(error), where=path, fix=fix) from None


def to_json(value: object) -> str:
    """Return ``value`` as strict JSON, without NaN, with sorted keys.

    Raises:
        ValueError: A number is not finite.
    """
    # Sorted keys make the same content the same bytes, so that hashes and diffs of files are meaningful.
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path, *, fix: str) -> JsonObject:
    """Return the JSON object in a file.

    Args:
        path: A file.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The file is missing, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RLTransformerError("no such file", where=path, fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise RLTransformerError(f"cannot be read as JSON: {error}", where=path, fix=fix) from None
    if not isinstance(value, dict):
        raise RLTransformerError("does not hold a JSON object", where=path, fix=fix)
    return value


@contextmanager
def translate_write_errors(path: str | Path) -> Iterator[None]:
    """Translate an OSError inside the block, such as a full disk, into an error that names the path and the fix.

    Raises:
        RLTransformerError: Writing failed.
    """
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        fix = "free disk space there, or name a folder that you may write to"
        raise RLTransformerError(problem, where=path, fix=fix) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably: a reader sees either the old text or the new one, also after a crash.

    Raises:
        RLTransformerError: Writing failed; the old file is unchanged.
    """
    # In the same folder, because a rename is atomic only within one file system. The random suffix lets several
    # processes write the same file without mixing their content.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                # The content must be on disk before the rename is. In the other order, a power failure can leave the
                # new name with an empty file. flush() empties Python's buffer, fsync() that of the operating system.
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # also a signal: no temporary file may stay behind
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(folder: Path, fill: Callable[[Path], JsonMapping | None]) -> None:
    """Write a folder that is either complete, with a manifest of its files, or absent.

    Args:
        folder: The folder; an existing one is replaced.
        fill: Writes the files into the temporary folder that it is given; may return further fields of the manifest.

    Raises:
        RLTransformerError: Writing failed; an existing folder is unchanged.
    """
    # The order is: write and sync every file, write the manifest, rename, sync the parent. The manifest is the proof
    # that everything before it is on disk, so a folder without one is incomplete, whatever it contains.
    temporary = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")
    with translate_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            fields = dict(fill(temporary) or {})
            files = {}
            for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
                # Libraries such as safetensors wrote these files without a sync; any descriptor of a file syncs it.
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                name = path.relative_to(temporary).as_posix()
                files[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
            write_text(temporary / MANIFEST, to_json({**fields, "files": files}))
            _replace(folder, temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def _replace(folder: Path, temporary: Path) -> None:
    """Rename ``temporary`` to ``folder``, which may exist."""
    if not folder.exists():
        temporary.rename(folder)
        return
    # A rename cannot replace a folder that is not empty, so the old one is moved out of the way first. If the process
    # is killed between the two renames, the old folder is complete under its other name.
    old = folder.with_name(f".{folder.name}.old-{secrets.token_hex(4)}")
    folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def check_writable(path: str | Path | None, suffix: str = "") -> None:
    """Check that a file can be written, before starting the work whose result it is meant for.

    Args:
        path: The file; None is always fine.
        suffix: Suffix that the name must have, such as ".png".

    Raises:
        RLTransformerError: The name has another suffix, or the file cannot be written there.
    """
    if path is None:
        return
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise RLTransformerError(f"does not end with {suffix}", where=path, fix=f"name a file that ends with {suffix}")
    # Missing folders are created when the file is written, so the nearest existing one decides.
    ancestor = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise RLTransformerError("cannot be written", where=path, fix="name a file in a folder that you may write to")


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


def check_format(values: JsonMapping, version: int, *, where: object) -> None:
    """Check that this version of the package can read a file.

    Args:
        values: Content of the file, with the field ``format_version``.
        version: The newest format that this package reads.
        where: The file, for the message.

    Raises:
        RLTransformerError: The file has a later format, or none.
    """
    format_version = values.get("format_version")
    # bool is a subclass of int, so isinstance() would accept true as version 1.
    if type(format_version) is not int or not 1 <= format_version <= version:
        raise RLTransformerError(
            f"has format_version {format_version!r}, but this rl_transformer reads 1 to {version}",
            where=where,
            fix="use the rl_transformer that wrote it, or a newer one",
        )
