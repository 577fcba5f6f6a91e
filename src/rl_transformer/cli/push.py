"""`rlt push` uploads a policy to the Hugging Face Hub."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Upload a policy with its model card to the Hugging Face Hub, as a private repository.")
    parser.add_argument("run", type=str, help="Run folder or policy folder.")
    parser.add_argument("repository", type=str, help="ORG/NAME on the Hub.")
    parser.add_argument("--public", action="store_true", help="Make the repository public.")
    parser.add_argument(
        "--baseline",
        nargs="+",
        type=str,
        default=[],
        metavar="RUN",
        help="Evaluated runs, or report.json files, to show next to it in the card; above all %BC.",
    )
    parser.add_argument(
        "--license", type=str | None, default=None, help="License, by its identifier on the Hub, such as mit."
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="Print the model card and the files, and upload nothing."
    )
    return parser


def run(args: Namespace) -> Outcome:
    """Upload the policy and print the name to load it by."""
    from rl_transformer.hub.push import CARD, policy_files, push_policy

    files = policy_files(args.run, args.repository, baselines=args.baseline, license_id=args.license)
    if args.dry_run:
        print(files[CARD].decode())
        print("nothing was uploaded; the files would be: " + ", ".join(sorted(files)))
        return Outcome({"uploaded": False, "files": sorted(files)})
    pushed = push_policy(files, args.repository, private=not args.public)
    print(f"policy: {pushed.uri} ({'private' if pushed.private else 'public'})")
    print(f'next: load_policy("{pushed.uri}")')
    return Outcome({"uploaded": True, "uri": pushed.uri, "private": pushed.private, "files": list(pushed.files)})
