"""Declare and read the arguments that describe a live environment, for the commands that act in one."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from rl_transformer.runtime.types import JsonObject


def add_environment_arguments(parser: ArgumentParser) -> None:
    """Declare ``--env-kwargs``, ``--wrapper`` and ``--max-steps``."""
    parser.add_argument(
        "--env-kwargs",
        type=str | None,
        default=None,
        metavar="JSON",
        help="Further arguments of gymnasium.make, for example '{\"max_episode_steps\": 200}'.",
    )
    parser.add_argument(
        "--wrapper",
        type=str,
        action="append",
        default=[],
        metavar="NAME",
        help="Class of gymnasium.wrappers, or MODULE:CLASS, to wrap the environment in, with arguments as "
        "'NAME={\"stack_size\": 4}'; may be repeated, the innermost one first.",
    )
    parser.add_argument(
        "--max-steps",
        type=int | None,
        default=None,
        help="Cut episodes off after this many steps; null: ten times the longest training episode, if the environment "
        "has no time limit of its own.",
    )


def parse_env_kwargs(text: str | None) -> JsonObject:
    """Return the arguments that ``--env-kwargs`` contains.

    Raises:
        RLTransformerError: The text is no JSON object.
    """
    from rl_transformer.environments.wrappers import parse_arguments

    return {} if text is None else parse_arguments(text, where="--env-kwargs")
