"""The one error that a user can cause and mend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


class RLTransformerError(Exception):
    """Something outside the program is wrong, and the user can put it right.

    The command line prints this error alone, without a traceback, and exits with 2. Every other
    exception is a bug of ours and keeps its traceback.

    Args:
        problem: What is wrong, saying what was found and not only what was expected.
        where: The file, option, episode or field it was found in.
        fix: What the user can do about it.
    """

    def __init__(self, problem: str, *, where: object, fix: str) -> None:
        self.problem, self.where, self.fix = problem, str(where), fix
        super().__init__(f"{where}: {problem}\n  fix: {fix}")

    def __reduce__(self) -> tuple[Callable[..., RLTransformerError], tuple[()]]:
        """Survive the way back from another process."""
        return partial(RLTransformerError, self.problem, where=self.where, fix=self.fix), ()


def require(package: str, *, extra: str, purpose: str) -> None:
    """Raise an `RLTransformerError` with the install line if ``package`` is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise RLTransformerError(
            f"{purpose} needs the package {package}, which is not installed",
            where=package,
            fix=f"pip install 'rl-transformer[{extra}]'",
        )
