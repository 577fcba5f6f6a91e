"""Targets of conditions other than the return, for the commands that let a policy act."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from rl_transformer.errors import RLTransformerError


def add_targets_argument(parser: ArgumentParser) -> None:
    """Declare ``--target NAME=VALUE ...``."""
    parser.add_argument(
        "--target",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME=VALUE",
        help="Targets of further conditions, such as cost_to_go=25.",
    )


def parse_targets(words: Sequence[str]) -> dict[str, float]:
    """Return the values by name.

    Raises:
        RLTransformerError: A word is not NAME=VALUE.
    """
    targets = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            targets[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise RLTransformerError(
                f"{word!r} is not NAME=VALUE", where="--target", fix="write it as cost_to_go=25, for example"
            )
    return targets
