"""Compare a store's columns with their hashes once, and remember it until one of the files changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime import log
from rl_transformer.runtime.files import MANIFEST, verify_folder
from rl_transformer.runtime.paths import below
from rl_transformer.runtime.reading import read_bytes, read_json, sha256
from rl_transformer.runtime.remembered import file_stamp, is_remembered, remember
from rl_transformer.runtime.types import JsonObject

# Reading this much takes about a second; only then is the user told what takes so long.
_WORTH_A_NOTE = 2**30


def verify_once(folder: Path) -> None:
    """Compare every file of a store with its hash, unless that was done before and no file has changed since.

    A file counts as unchanged if its size, time of change and number in the file system are the same.

    Args:
        folder: Folder of a store.

    Raises:
        RLTransformerError: A file is missing or has another content.
    """
    stamp = _stamp(folder)
    if is_remembered("verified", folder, stamp):
        return
    size = sum(entry["bytes"] for entry in stamp["files"].values())
    if size > _WORTH_A_NOTE:
        log.info(f"comparing {size / 2**30:.1f} GiB of {folder} with their hashes, once")
    verify_folder(folder)
    # Nothing is remembered about files that changed meanwhile.
    if _stamp(folder) == stamp:
        remember("verified", folder, stamp)


def watch_columns(folder: Path) -> Callable[[], None]:
    """Return a function that raises an error if a file of a store was changed in place since this call.

    Columns are mapped, so training reads what is written into them meanwhile. A store that is replaced as a whole does no
    harm: the files that were mapped stay what they were.
    """
    written = read_json(folder / MANIFEST, fix="").get("files", {})
    stamps = _stamp(folder)["files"]

    def check() -> None:
        for name, before in stamps.items():
            path = folder / name
            try:
                now = file_stamp(path)
            except OSError:  # removed
                continue
            if now == before or now["inode"] != before["inode"]:
                continue
            if now["bytes"] != before["bytes"] or sha256(path) != written[name]["sha256"]:
                raise RLTransformerError(
                    "was changed while training read it, so the updates since the last checkpoint are not saved",
                    where=path,
                    fix="restore the file; rlt train --resume then continues from that checkpoint",
                )
            stamps[name] = now  # only touched

    return check


def _stamp(folder: Path) -> JsonObject:
    """Return what identifies the present state of the files that the manifest lists."""
    fix = "write the store again with rlt convert or rlt collect"
    manifest = read_bytes(folder / MANIFEST, fix=fix, limit="json_bytes")
    names = read_json(folder / MANIFEST, fix=fix).get("files")
    files = {}
    for name in sorted(names) if isinstance(names, dict) else ():
        with suppress(OSError):  # a missing file is reported by the comparison of hashes
            files[name] = file_stamp(below(folder, name))
    return {"folder": str(folder.resolve()), "manifest": hashlib.sha256(manifest).hexdigest(), "files": files}
