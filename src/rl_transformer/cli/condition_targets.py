"""Parse targets of conditions other than the return, for the commands in which a policy acts."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from rl_transformer.errors import RLTransformerError


def add_targets_argument(parser: ArgumentParser) -> None:
    """Declare ``--target NAME=VALUE ...``."""
    # One flag with names instead of one flag per condition: conditions may come from plugins, which are loaded after
    # the arguments were parsed.
    parser.add_argument(
        "--target",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME=VALUE",
        help="Targets of conditions other than the return, such as cost_to_go=25.",
    )


def parse_targets(words: Sequence[str]) -> dict[str, float]:
    """Return targets by condition from arguments of the form NAME=VALUE.

    Raises:
        RLTransformerError: An argument has another form.
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
