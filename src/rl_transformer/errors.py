"""The one exception for problems that the user can fix, and the suggestion of similar names in its fixes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial


class RLTransformerError(Exception):
    """Something outside the program is wrong, and the user can fix it.

    The command line prints this error alone, without a traceback, and exits with 2. Every other
    exception is a bug of ours and keeps its traceback.

    Args:
        problem: What is wrong: what was found, not only what was expected.
        where: The file, option, episode or field in which it was found.
        fix: What the user can do about it.
    """

    def __init__(self, problem: str, *, where: object, fix: str) -> None:
        self.problem = problem
        self.where = str(where)
        self.fix = fix
        super().__init__(f"{where}: {problem}\n  fix: {fix}")

    def __reduce__(self) -> tuple[Callable[..., RLTransformerError], tuple[()]]:
        """Return how to rebuild the error in another process: keyword arguments need a partial."""
        return partial(RLTransformerError, self.problem, where=self.where, fix=self.fix), ()


def require(package: str, *, extra: str | None, purpose: str) -> None:
    """Raise an `RLTransformerError` with the install command if ``package`` cannot be imported.

    Args:
        package: Top-level module that is about to be imported.
        extra: The extra of rl-transformer that installs it; None for a core dependency.
        purpose: What needs it, as the subject of a sentence, for example "writing a .mp4".
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        name = "rl-transformer" if extra is None else f"'rl-transformer[{extra}]'"
        raise RLTransformerError(
            f"{purpose} needs the package {package}, which is not installed",
            where=package,
            fix=f"pip install {name}",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that suggests names similar to ``name``, with a space at the end; empty if there are none."""
    close = difflib.get_close_matches(name, list(known), n=2)
    return f"did you mean {' or '.join(close)}? " if close else ""
