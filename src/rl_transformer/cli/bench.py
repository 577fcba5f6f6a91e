"""`rlt bench`: this library against the published loop, in one run."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser

_OPTIONS = {
    "--repeats": (int, "Rounds in which the two sides take turns"),
    "--store-steps": (int, "Steps of the store on disk"),
    "--num-episodes": (int, "Our episodes per target"),
    "--baseline-episodes": (int, "The baseline's episodes per target"),
    "--policy": (str, "Folder of a policy trained with the preset gym"),
    "--streaming": (str, "Folder of a policy with sliding-window attention, to time as well"),
    "--env-id": (str, "The policy's environment"),
}


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser."""
    from rl_transformer.bench import OPTIONS

    parser = new_parser(prog, "Time this library against the published loop, in one run.")
    parser.add_argument("name", type=str, help=f"{', '.join(OPTIONS)}.")
    for flag, (kind, text) in _OPTIONS.items():
        option = flag.removeprefix("--").replace("-", "_")
        defaults = ", ".join(f"{name}: {known[option]}" for name, known in OPTIONS.items() if option in known)
        parser.add_argument(flag, type=kind | None, default=None, help=f"{text}. Defaults: {defaults}.")
    parser.add_argument("--target-return", nargs="+", type=float, default=None, help="evaluate: target returns.")
    parser.add_argument("--sizes", nargs="+", type=str, default=None, help="train: hopper, gpt2-small, atari.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads; null: torch's default.")
    return parser


def run(args: Namespace) -> Outcome:
    """Time both sides and print the ratios."""
    from rl_transformer.bench import bench
    from rl_transformer.runtime.machine import cpu_threads

    names = [*(flag.removeprefix("--").replace("-", "_") for flag in _OPTIONS), "target_return", "sizes"]
    with cpu_threads(args.threads):
        rows = bench(args.name, **{name: args[name] for name in names})
    for row in rows:
        about = ", ".join(str(row[key]) for key in ("what", "size", "dtype", "baseline_dtype") if key in row)
        ours = row["ours"]["median_ms"]
        baseline = row["baseline"]["median_ms"]
        print(f"{args.name}: {about}: ours {ours:g} ms, baseline {baseline:g} ms, ratio {row['ratio']:g}")
    return Outcome(rows[0] if len(rows) == 1 else rows)
