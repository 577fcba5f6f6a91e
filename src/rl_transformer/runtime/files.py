"""Files that are whole or absent: durable writes, hashes, and names that stay below a root."""

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
from rl_transformer.runtime.types import JsonMapping, JsonObject

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def below(root: Path, name: str) -> Path:
    """Return ``root / name`` for a name that comes from outside; it may not lead anywhere else.

    ``name`` may have several parts with ``/`` between. Every part must start with a letter or a
    digit and consist of letters, digits, ``.``, ``_`` and ``-``; the result, links resolved, must
    lie below ``root``.
    """
    parts = name.split("/")
    path = root.joinpath(*parts)
    if not all(_NAME.fullmatch(part) for part in parts) or not path.resolve().is_relative_to(root.resolve()):
        raise RLTransformerError(
            f"{name!r:.200} is not a name inside this folder",
            where=root,
            fix="use letters, digits, '.', '_' and '-', with '/' between the parts",
        )
    return path


def to_json(value: object) -> str:
    """Return ``value`` as strict JSON (no NaN) with sorted keys."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path, *, fix: str) -> JsonObject:
    """Read a JSON object, or raise an error that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RLTransformerError("no such file", where=path, fix=fix) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RLTransformerError(f"cannot be read as JSON: {error}", where=path, fix=fix) from None
    if not isinstance(value, dict):
        raise RLTransformerError("does not hold a JSON object", where=path, fix=fix)
    return value


@contextmanager
def translate_write_errors(path: str | Path) -> Iterator[None]:
    """Turn a full disk, a missing right or a file in the way into an error that names the path and the cure."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        fix = "free space there, or name a place that you may write to"
        raise RLTransformerError(problem, where=path, fix=fix) from None


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(folder: Path, fill: Callable[[Path], JsonMapping | None]) -> None:
    """Write a folder that is either whole, with a manifest of its contents, or not there.

    ``fill`` writes the files into the temporary folder it is given, and may return fields for the
    manifest. The order is: write and sync every file, write the manifest last, rename, sync the
    parent. A folder of that name is replaced.
    """
    temporary = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")
    with translate_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            fields = dict(fill(temporary) or {})
            files = {}
            for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
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
    if not folder.exists():
        temporary.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.old-{secrets.token_hex(4)}")
    folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def check_writable(path: str | Path | None, suffix: str = "") -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold."""
    if path is None:
        return
    path = Path(path)
    if suffix and path.suffix != suffix:
        raise RLTransformerError(f"does not end with {suffix}", where=path, fix=f"name a file that ends with {suffix}")
    ancestor = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise RLTransformerError("cannot be written", where=path, fix="name a file in a folder that you may write to")


def verify_folder(folder: Path, *, required: Iterable[str] = (), hashes: bool = True) -> JsonObject:
    """Return a folder's manifest after checking every file that it names.

    Raises:
        RLTransformerError: The manifest or a file is missing, a ``required`` one is not listed, or one has
            another size or content.
    """
    fix = "restore the folder from a copy, or write it again"
    manifest = read_json(folder / MANIFEST, fix=fix)
    files = manifest.get("files")
    if not isinstance(files, dict) or not set(required) <= set(files):
        problem = f"does not list {', '.join(required) or 'any file'}"
        raise RLTransformerError(problem, where=folder / MANIFEST, fix=fix)
    for name, expected in files.items():
        path = below(folder, name)
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= set(expected):
            raise RLTransformerError(f"says nothing of {name}", where=folder / MANIFEST, fix=fix)
        if not path.is_file():
            raise RLTransformerError("is missing", where=path, fix=fix)
        if path.stat().st_size != expected["bytes"]:
            problem = f"has {path.stat().st_size} bytes, not the {expected['bytes']} that were written"
            raise RLTransformerError(problem, where=path, fix=fix)
        if hashes and sha256(path) != expected["sha256"]:
            raise RLTransformerError("has changed since it was written (SHA-256 differs)", where=path, fix=fix)
    return manifest


def check_format(values: JsonMapping, version: int, *, where: object) -> None:
    """Refuse a folder that a later version of this package wrote."""
    found = values.get("format_version")
    if type(found) is not int or not 1 <= found <= version:
        raise RLTransformerError(
            f"has format_version {found!r}, and this rl_transformer reads 1 to {version}",
            where=where,
            fix="use the rl_transformer that wrote it, or a newer one",
        )
