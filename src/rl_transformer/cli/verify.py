"""`rlt verify` checks what a run, a policy, an export or a live server promises."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.errors import RLTransformerError
from rl_transformer.export.promises import Promise, Report


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Check what a policy, an export or a live server promises; exit code 2 if something is broken."
    )
    parser.add_argument(
        "target", type=str, help="A run or policy folder, a folder of rlt export, or the URL of rlt serve."
    )
    parser.add_argument("--data", type=str, default=None, help="Logged data to replay through a policy's sessions.")
    parser.add_argument("--policy", type=str, default=None, help="The policy that a server should serve: a run folder.")
    parser.add_argument("--token-file", type=str, default=None, help="File with the token of a server.")
    return parser


def run(args: Namespace) -> Outcome:
    """Print every promise with its figure."""
    from rl_transformer.export.verify import verify
    from rl_transformer.trajectories import open_trajectories

    if args.target.startswith(("http://", "https://")):
        report = _verify_server(args)
    else:
        _refuse(args, "policy", "token_file", fix="they are for the URL of a server: leave them out")
        report = verify(args.target, None if args.data is None else open_trajectories(args.data))
    for promise in report.promises:
        print(f"{'holds ' if promise.holds else 'BROKEN'}  {promise.name}: {promise.figure}")
    for note in report.notes:
        print(f"note: {note}")
    return Outcome(report.to_dict(), 0 if report.holds else 2)


def _verify_server(args: Namespace) -> Report:
    """Return the promises of a live server."""
    from rl_transformer.policy import load_policy
    from rl_transformer.serve.check import check_server
    from rl_transformer.serve.server import read_token

    _refuse(args, "data", fix="name the run to replay data; a server is verified with randomly drawn observations")
    policy = None if args.policy is None else load_policy(args.policy)
    found = check_server(args.target, token=read_token(args.token_file), policy=policy)
    return Report(args.target, [Promise(**promise) for promise in found])


def _refuse(args: Namespace, *names: str, fix: str) -> None:
    """Raise an error for an option that would be ignored."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise RLTransformerError(f"{', '.join(given)} has no effect on {args.target}", where="rlt verify", fix=fix)
