"""Turn names into paths: those that a user gives, and those that come from files of others."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rl_transformer.errors import RLTransformerError

# Dopamine's replay buffers are files such as $store$_action_ckpt.0.gz.
_NAME = re.compile(r"(?:\$store\$_)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LONGEST = 1000  # systems take 4,096 characters with the folders above; no file of ours has 200


def below(root: Path, name: str) -> Path:
    """Return ``root / name`` for a name that comes from a file or another untrusted source.

    Args:
        root: A folder.
        name: Parts separated by ``/``. Every part must start with a letter or digit and consist of letters, digits,
            ``.``, ``_`` and ``-``; at most 1,000 characters in all.

    Raises:
        RLTransformerError: The name has another form, or leads out of ``root``, for example through a symbolic link.
    """
    parts = name.split("/")
    path = root.joinpath(*parts)
    # Two independent checks. The pattern rejects "..", absolute paths, drive letters and control characters on any
    # platform; resolving rejects a link inside the folder that points elsewhere. A downloaded manifest can therefore
    # not make us read or overwrite a file of the user. Path.resolve() would raise a RuntimeError for links in a circle,
    # which lead nowhere.
    has_form = len(name) <= _LONGEST and all(_NAME.fullmatch(part) for part in parts)
    if not has_form or not _real(path).is_relative_to(_real(root)):
        raise RLTransformerError(
            f"{name!r:.200} is not a name inside this folder",
            where=root,
            fix="use letters, digits, '.', '_' and '-', with '/' between the parts",
        )
    return path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave, in which ``~`` stands for a home folder, as in a shell.

    Shells replace ``~`` only at the beginning of a word: not in ``--output=~/run``, not in ``rlt:~/data``, and not in
    Python.

    Raises:
        RLTransformerError: ``~NAME`` names a user that does not exist, or no file can have this name.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        fix = "write the home folder in full, or ./~ for a file whose name begins with ~"
        raise RLTransformerError(str(error), where=path, fix=fix) from None
    try:
        os.stat(expanded)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # it may be made, or is refused where it is used
    except (OSError, ValueError) as error:  # a name that is too long, links in a circle, a NUL character
        shown = f"{str(path)[:100]}..." if len(str(path)) > 100 else str(path)
        problem = f"cannot be the name of a file: {getattr(error, 'strerror', None) or error}"
        raise RLTransformerError(problem, where=shown, fix="choose a shorter or another name") from None
    return expanded


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
    path = user_path(path)
    refuse_special_file(path)
    if suffix and path.suffix != suffix:
        raise RLTransformerError(f"does not end with {suffix}", where=path, fix=f"name a file that ends with {suffix}")
    # Missing folders are created when the file is written, so the nearest existing one decides.
    ancestor = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise RLTransformerError("cannot be written", where=path, fix="name a file in a folder that you may write to")


def cache_folder() -> Path:
    """Return the folder of what can be computed again at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_transformer"


def refuse_special_file(path: Path) -> None:
    """Raise an `RLTransformerError` if a pipe or device has the name, which a rename would replace."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RLTransformerError(
            "is not a regular file", where=path, fix="name a file; a pipe or device cannot be replaced"
        )
