"""`rlt serve` lets a policy act for programs that call it over a network."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.serve.limits import ServeLimits, flag

if TYPE_CHECKING:
    from rl_transformer.policy import Policy


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Serve a policy's sessions over HTTP, and to robots over a WebSocket.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="Address to listen on; one that other machines can reach needs a token.",
    )
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0: any free one.")
    parser.add_argument(
        "--token-file",
        type=str | None,
        default=None,
        help="File with the token that clients must send; only its owner may have access.",
    )
    parser.add_argument(
        "--allowed-host",
        nargs="+",
        type=str,
        default=[],
        metavar="NAME",
        help="Host names by which clients may call the server, besides localhost and IP addresses.",
    )
    parser.add_argument(
        "--keep-sessions",
        type=str | None,
        default=None,
        help="Folder or redis:// URL that keeps the sessions across a restart.",
    )
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda or cuda:N.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    for item in fields(ServeLimits):
        kind = int if isinstance(item.default, int) else float
        parser.add_argument(flag(item.name), type=kind, default=item.default, help=item.metadata["help"])
    return parser


def run(args: Namespace) -> Outcome:
    """Serve until a signal arrives."""
    import torch

    from rl_transformer.runtime.machine import find_device
    from rl_transformer.serve.server import Address, read_token, serve

    limits = ServeLimits(**{item.name: args[item.name] for item in fields(ServeLimits)})
    token = read_token(args.token_file)
    address = Address(host=args.host, port=args.port, token=token, names=args.allowed_host)
    torch.set_num_threads(args.threads)
    logging.basicConfig(format="%(asctime)s %(message)s")
    served: dict[str, str] = {}

    def started(url: str, policy: Policy) -> None:
        served.update(url=url, policy=policy.content_hash)
        print(f"{policy}\nserves at {url} as {policy.content_hash[:16]}; Ctrl-C stops it", flush=True)

    number = serve(
        args.folder,
        address,
        limits,
        keep_sessions=args.keep_sessions,
        device=str(find_device(args.device, where="--device")),
        started=started,
    )
    return Outcome(served, 0 if number is None else 128 + number)
