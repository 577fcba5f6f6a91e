"""`rlt attention` shows which tokens a policy attends to."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, optional_path
from rl_transformer.runtime.paths import user_path


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Show which tokens a policy attends to, averaged over heads and logged windows.")
    parser.add_argument("folder", type=str, help="A run folder or a policy folder.")
    parser.add_argument(
        "--data", type=str | None, default=None, help="URI of logged data; null: the run's own training data."
    )
    parser.add_argument("--num-windows", type=int, default=256, help="Number of windows to average over.")
    parser.add_argument("--seed", type=int, default=0, help="Seed for choosing the windows.")
    parser.add_argument("--figure", type=str | None, default=None, help="Draw one map per layer into this PNG file.")
    return parser


def run(args: Namespace) -> Outcome:
    """Average the attention weights and print one line per layer."""
    from rl_transformer.cli.training_data import run_options
    from rl_transformer.evaluation.attention import attention_maps, plot_attention
    from rl_transformer.policy import load_policy
    from rl_transformer.runtime.paths import check_writable
    from rl_transformer.trajectories.open import open_training_data, open_trajectories

    check_writable(args.figure, ".png")  # before minutes of work
    policy = load_policy(args.folder)
    if args.data:
        dataset = open_trajectories(args.data)
    else:
        dataset = open_training_data(run_options(user_path(args.folder), fix="pass --data URI").dataset)
    report = attention_maps(policy, dataset, num_windows=args.num_windows, seed=args.seed)
    # Uniform attention already puts a third of the weight on tokens of the same type, so the number needs a reference.
    even = report["even"]
    for layer in report["layers"]:
        print(
            f"layer {layer['layer']}: {layer['same_type']:.3f} of the attention on tokens of the same type "
            f"(even attention: {even['same_type']:.3f}), {layer['distance']:.2f} timesteps back "
            f"(even attention: {even['distance']:.2f})"
        )
        shares = " ".join(f"{head['own_token']:.2f}{'*' * head['is_markov']}" for head in layer["heads"])
        print(
            f"layer {layer['layer']}: each head's attention on the token itself (even attention: {even['own_token']:.2f}): {shares}"
        )
    if any(head["is_markov"] for layer in report["layers"] for head in layer["heads"]):
        print("*: more than half of its attention, also on random tokens: a Markov head (arXiv 2409.06985)")
    figure = optional_path(args.figure)
    if figure is not None:
        plot_attention(report, figure)
    return Outcome(report)
