"""Tell paths on this machine from URLs of object stores, and find the files that a path names."""

from __future__ import annotations

import glob
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import refuse_special_file, user_path


def is_url(path: str) -> bool:
    """Return True for the URL of files in an object store, and False for a path."""
    return "://" in path


def local_path(path: str, where: str) -> Path:
    """Return the path of a file or folder of a format that is read from this machine only.

    Raises:
        RLTransformerError: It is the URL of an object store.
    """
    if is_url(path):
        fix = "copy it to this machine; parquet:, csv: and jsonl: read object stores"
        raise RLTransformerError("is a URL, and this format is read from this machine only", where=where, fix=fix)
    return user_path(path)


def local_files(path: str, where: str) -> list[str]:
    """Return the files that a path, a folder or a glob names, sorted by name; hidden ones are left out."""
    found = user_path(path)
    if found.is_dir():
        inside = (file for file in found.rglob("*") if file.is_file())
        files = [str(f) for f in inside if not any(p[0] in "._" for p in f.relative_to(found).parts)]
    elif found.exists():
        files = [str(found)]
    else:
        files = glob.glob(str(found), recursive=True)
    if not files:
        fix = "name a file, a folder, or a glob in quotes, such as 'parquet:logs/*.parquet'"
        raise RLTransformerError("there is no such file", where=where, fix=fix)
    for file in files:
        refuse_special_file(Path(file))
    return sorted(files)
