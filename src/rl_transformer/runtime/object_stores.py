"""Find files by their URL in object stores, with pyarrow's file systems; `runtime.table_files` reads them in its process.

Credentials come from the environment, as the stores' own tools take them: the URL of data is kept with every store and policy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from pyarrow import fs

from rl_transformer.errors import RLTransformerError

_ANONYMOUS = "anonymous"
_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 30
_S3 = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_REGION in the environment, and AWS_ENDPOINT_URL for a "
    "store that is not Amazon's; a public bucket is s3://anonymous@BUCKET/..."
)
_GS = (
    "set GOOGLE_APPLICATION_CREDENTIALS in the environment, or run gcloud auth application-default login; a public bucket is "
    "gs://anonymous@BUCKET/..."
)
_CURES = {
    "s3": _S3,
    "gs": _GS,
    "gcs": _GS,
    "hf": "pip install 'rl-transformer[hub]', and set HF_TOKEN for a private repository",
}


class Located(NamedTuple):
    """Files of one table."""

    filesystem: fs.FileSystem
    files: list[str]
    base: str | None
    """Folder whose ``name=value`` folders are columns."""


def locate(files: list[str] | str, base: str | None) -> Located:
    """Return where files are: paths on this machine, or the URL of a file, a folder or a glob.

    Raises:
        RLTransformerError: The store does not answer, refuses to, or has no such file; or the URL holds a password.
    """
    if isinstance(files, list):
        return Located(fs.LocalFileSystem(), files, base)
    scheme, _, rest = files.partition("://")
    bucket, _, key = rest.partition("/")
    user, _, bucket = bucket.rpartition("@")
    where = f"{scheme}://{bucket}/{key}"
    if user not in ("", _ANONYMOUS):
        problem = "has credentials in it, which would be kept with the data and the policy"
        raise RLTransformerError(problem, where=where, fix=_CURES.get(scheme, "leave them out"))
    try:
        filesystem, root = _filesystem(scheme, bucket, is_anonymous=user == _ANONYMOUS)
        path = f"{root.rstrip('/')}/{key}"
        found = _matching(filesystem, path.rstrip("/") or "/")
    except (OSError, ValueError, ImportError) as error:
        # Arrow names the key and the bucket, and adds the calls on further lines.
        problem = f"the bucket {bucket!r} cannot be read: {' '.join(str(error).split())[:300]}"
        fix = _CURES.get(scheme, "use one of s3://, gs://, hf:// and file://, or copy the files to this machine")
        raise RLTransformerError(problem, where=where, fix=fix) from None
    if not found.files:
        problem = f"there is no such file in the bucket {bucket!r}" if bucket else "there is no such file"
        fix = "name a file, a folder, or a glob in quotes, such as 'parquet:s3://BUCKET/logs/*.parquet'"
        raise RLTransformerError(problem, where=where, fix=fix)
    return found


def _filesystem(scheme: str, bucket: str, *, is_anonymous: bool) -> tuple[fs.FileSystem, str]:
    """Return the file system of a bucket, and the bucket's path in it."""
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem())), bucket
    if scheme != "s3":
        user = f"{_ANONYMOUS}@" if is_anonymous else ""
        # A URL would need its special characters encoded; only the bucket, which has none, is given as one.
        return fs.FileSystem.from_uri(f"{scheme}://{user}{bucket}{'' if bucket else '/'}")
    # From a URL, Arrow asks Amazon for the region of the bucket, wherever the store is.
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    filesystem = fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        anonymous=is_anonymous,
        connect_timeout=_SECONDS_TO_CONNECT,
        request_timeout=_SECONDS_TO_ANSWER,
    )
    return filesystem, bucket


def _matching(filesystem: fs.FileSystem, path: str) -> Located:
    """Return the files that a path, a folder or a glob names, sorted by name; hidden ones are left out."""
    patterns = path.split("/")
    plain = next((i for i, part in enumerate(patterns) if any(mark in part for mark in "*?[")), len(patterns))
    root = "/".join(patterns[:plain]) or "/"
    if plain == len(patterns):
        info = filesystem.get_file_info(path)
        if info.type != fs.FileType.Directory:
            return Located(filesystem, [path] if info.type == fs.FileType.File else [], None)
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    files = sorted(info.path for info in filesystem.get_file_info(selector) if info.type == fs.FileType.File)
    if plain == len(patterns):
        inside = [(file, file[len(root) :].strip("/").split("/")) for file in files]
        return Located(filesystem, [f for f, parts in inside if not any(part[:1] in "._" for part in parts)], root)
    return Located(filesystem, [file for file in files if _is_match(file.split("/"), patterns)], None)


def _is_match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return True if the parts of a path match those of a glob, in which ``**`` stands for any number of folders."""
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_is_match(parts[skipped:], patterns[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _is_match(parts[1:], patterns[1:])
