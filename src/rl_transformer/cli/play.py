"""`rlt play` lets a person watch a policy act in a browser."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.environment import add_environment_arguments, environment_arguments

if TYPE_CHECKING:
    from rl_transformer.play.game import Game
    from rl_transformer.policy import Policy


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Watch a policy act in a browser, and change its target return.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument(
        "--env-id", type=str | None, default=None, help="Gymnasium id of the environment; MODULE:ID imports a module."
    )
    add_environment_arguments(parser)
    parser.add_argument("--port", type=int, default=8010, help="Port on this machine; 0: any free one.")
    parser.add_argument(
        "--static",
        type=str | None,
        default=None,
        help="Write a folder for any web server instead: policy and environment run in the browser (Key-to-Door, T-mazes).",
    )
    parser.add_argument(
        "--web-runtime",
        type=str | None,
        default=None,
        help="With --static: folder with the files of onnxruntime-web; null: node_modules/onnxruntime-web/dist.",
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Serve the page until a signal arrives."""
    from rl_transformer.environments.sources import EnvironmentSource
    from rl_transformer.errors import RLTransformerError, require
    from rl_transformer.evaluation.evaluate import no_environment
    from rl_transformer.play.game import Game
    from rl_transformer.policy import load_policy

    if args.web_runtime is not None and args.static is None:
        raise RLTransformerError("has no effect without --static", where="--web-runtime", fix="leave it out")
    policy = load_policy(args.folder)
    if args.env_id is None:
        raise no_environment(policy.spec.data)
    env_kwargs, wrappers = environment_arguments(args)
    source = EnvironmentSource.of(args.env_id, env_kwargs=env_kwargs, wrappers=wrappers)

    # Written without the packages of a server.
    if args.static is not None:
        return _write_page(policy, Game.of(policy, source, args.max_steps), args)
    require("starlette", extra="serve", purpose="rlt play")
    require("uvicorn", extra="serve", purpose="rlt play")
    require("websockets", extra="serve", purpose="rlt play")
    from rl_transformer.play.server import play

    def started(url: str) -> None:
        print(f"{policy}\nopen {url} in a browser; Ctrl-C stops it", flush=True)

    number = play(lambda: Game.of(policy, source, args.max_steps), args.port, started)
    return Outcome({"policy": policy.content_hash}, 0 if number is None else 128 + number)


def _write_page(policy: Policy, game: Game, args: Namespace) -> Outcome:
    """Write the page as a folder, and say how to look at it."""
    from rl_transformer.play.static_page import RUNTIME_FOLDER, write_page
    from rl_transformer.runtime.paths import user_path

    folder = user_path(args.static)
    write_page(policy, game, folder, user_path(args.web_runtime or RUNTIME_FOLDER))
    game.close()
    print(f"page: {folder}")
    print(f"next: {sys.executable} -m http.server --directory {folder} 8011, and open http://127.0.0.1:8011/")
    return Outcome({"page": str(folder), "policy": policy.content_hash})
