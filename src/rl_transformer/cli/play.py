"""`rlt play` lets a person watch a policy act in a browser."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.environment import add_environment_arguments, environment_arguments


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Watch a policy act in a browser, and change its target return.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument(
        "--env-id", type=str | None, default=None, help="Gymnasium id of the environment; MODULE:ID imports a module."
    )
    add_environment_arguments(parser)
    parser.add_argument("--port", type=int, default=8010, help="Port on this machine; 0: any free one.")
    return parser


def run(args: Namespace) -> Outcome:
    """Serve the page until a signal arrives."""
    from rl_transformer.environments.sources import EnvironmentSource
    from rl_transformer.errors import require
    from rl_transformer.evaluation.evaluate import no_environment
    from rl_transformer.play.game import Game
    from rl_transformer.policy import load_policy

    for package in ("starlette", "uvicorn", "websockets"):
        require(package, extra="serve", purpose="rlt play")
    from rl_transformer.play.server import play

    policy = load_policy(args.folder)
    if args.env_id is None:
        raise no_environment(policy.spec.data)
    env_kwargs, wrappers = environment_arguments(args)
    source = EnvironmentSource.of(args.env_id, env_kwargs=env_kwargs, wrappers=wrappers)

    def started(url: str) -> None:
        print(f"{policy}\nopen {url} in a browser; Ctrl-C stops it", flush=True)

    number = play(lambda: Game.of(policy, source, args.max_steps), args.port, started)
    return Outcome({"policy": policy.content_hash}, 0 if number is None else 128 + number)
