"""`rlt bench` times this library against the published training and evaluation loops."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser

# Options whose defaults differ between benchmarks; each benchmark accepts some of them.
_OPTIONS = {
    "--repeats": (int, "Number of rounds; the two sides take turns"),
    "--sessions": (int, "Time this many live sessions in one batch instead of comparing with transformers"),
    "--store-steps": (int, "Steps of the store on disk"),
    "--max-steps": (int, "Steps after which a game is cut off"),
    "--num-episodes": (int, "Episodes per target of this library"),
    "--baseline-episodes": (int, "Episodes per target of the baseline"),
    "--policy": (str, "Folder of a policy trained with the preset gym"),
    "--streaming": (str, "Folder of a policy with sliding-window attention to time as well"),
    "--env-id": (str, "The policy's environment"),
}


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    from rl_transformer.bench import OPTIONS

    parser = new_parser(prog, "Time this library against the published loop, in alternating rounds.")
    parser.add_argument("name", type=str, help=f"Benchmark: {', '.join(OPTIONS)}.")
    # Defaults come from the benchmarks themselves, so that the help cannot differ from what runs.
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
    processor = rows[0]["hardware"].get("processor", "this CPU")  # macOS and Windows do not tell
    print(f"our float32 matrix products on {processor}: {rows[0]['float32_products']}")
    for row in rows:
        # Measurements have different labels; those that a row has identify it.
        about = ", ".join(str(row[key]) for key in ("what", "size", "dtype", "baseline_dtype") if key in row)
        ours = row["ours"]["median_ms"]
        baseline = row["baseline"]["median_ms"]
        print(f"{args.name}: {about}: ours {ours:g} ms, baseline {baseline:g} ms, ratio {row['ratio']:g}")
        if "memory_per_session_kib" in row:
            print(
                f"  99 % of actions within {row['ours']['p99_ms']:g} ms, of calls of the whole batch within "
                f"{row['call']['p99_ms']:g} ms; {row['memory_per_session_kib']:g} KiB per session"
            )
    return Outcome(rows[0] if len(rows) == 1 else rows)
