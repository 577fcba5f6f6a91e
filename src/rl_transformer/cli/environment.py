"""Declare and read the arguments that describe a live environment, for the commands that act in one."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.errors import RLTransformerError
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
        "--atari-protocol",
        type=str | None,
        default=None,
        help="For ALE/NAME-v5: paper (no sticky actions, up to 30 no-ops) or modern (sticky actions 0.25); both with grayscale frames of 84 x 84 pixels, one per four frames.",
    )
    parser.add_argument(
        "--max-steps",
        type=int | None,
        default=None,
        help="Cut episodes off after this many steps; null: ten times the longest training episode, if the environment "
        "has no time limit of its own.",
    )


def add_step_timeout_argument(parser: ArgumentParser) -> None:
    """Declare ``--step-timeout``, for the commands whose episodes run in the main thread."""
    parser.add_argument(
        "--step-timeout",
        type=float | None,
        default=None,
        help="Time limit in seconds for one step or reset of the environment, where Python can interrupt it; null: no limit.",
    )


def parse_env_kwargs(text: str | None) -> JsonObject:
    """Return the arguments that ``--env-kwargs`` contains.

    Raises:
        RLTransformerError: The text is no JSON object.
    """
    from rl_transformer.environments.wrappers import parse_arguments

    return {} if text is None else parse_arguments(text, where="--env-kwargs")


def environment_arguments(args: Namespace) -> tuple[JsonObject, list[str]]:
    """Return the arguments of the environment, and its wrappers, that the command line names.

    Raises:
        RLTransformerError: An argument is no JSON object, or given twice.
    """
    from rl_transformer.environments.atari import atari_arguments

    env_kwargs = parse_env_kwargs(args.env_kwargs)
    if args.atari_protocol is None:
        return env_kwargs, list(args.wrapper)
    protocol = atari_arguments(args.env_id or "", args.atari_protocol)
    twice = sorted(set(env_kwargs) & set(protocol["env_kwargs"]))
    if twice:
        raise RLTransformerError(
            f"{', '.join(twice)} is set by the protocol, too",
            where="--env-kwargs",
            fix="leave it out, or leave --atari-protocol out",
        )
    return {**protocol["env_kwargs"], **env_kwargs}, [*protocol["wrappers"], *args.wrapper]
