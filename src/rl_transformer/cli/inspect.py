"""`rlt inspect` shows the content of a dataset and its defects, cures it, and compares it with another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser, optional_path
from rl_transformer.errors import RLTransformerError

if TYPE_CHECKING:
    from rl_transformer.trajectories.dataset import TrajectoryDataset
    from rl_transformer.trajectories.findings import Finding
    from rl_transformer.trajectories.readers import Source


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Show the content of a dataset and its defects; exit with 2 if training would refuse the data."
    )
    parser.add_argument("uri", type=str | None, nargs="?", default=None, help=uri_help())
    add_data_options(parser)
    parser.add_argument(
        "--fix", type=str | None, default=None, help="Write a clean store into this empty or new folder."
    )
    parser.add_argument(
        "--against",
        type=str | None,
        default=None,
        help="Test data: check that it shares nothing with the first data set and is distributed alike.",
    )
    parser.add_argument(
        "--entity",
        type=str,
        nargs="+",
        default=[],
        help="With --against: columns that identify the entity of an episode, such as a patient.",
    )
    parser.add_argument(
        "--time", type=str | None, default=None, help="With --against: column with times, if its name does not say so."
    )
    parser.add_argument("--html", type=str | None, default=None, help="Write a page with figures to this HTML file.")
    parser.add_argument(
        "--figure", type=str | None, default=None, help="Draw histograms of returns and lengths to this PNG file."
    )
    parser.add_argument("--verify", action="store_true", help="Read every byte of a store and compare its hashes.")
    parser.add_argument(
        "--kinds", action="store_true", help="List all kinds of findings as Markdown, and nothing else."
    )
    return parser


def add_data_options(parser: ArgumentParser) -> None:
    """Declare the options that every reader has; they mean the same as those of ``rlt train --dataset.*``."""
    parser.add_argument(
        "--observe",
        type=str,
        nargs="+",
        default=[],
        help="Parts of Dict and Tuple observations to use, as names or globs; without any, all.",
    )
    parser.add_argument(
        "--clip-actions", action="store_true", help="Clip actions to their bounds and count them, instead of refusing."
    )


def uri_help() -> str:
    """Return the forms of all data URIs, with the readers' options and their defaults."""
    from rl_transformer.trajectories.readers import READERS

    # Taken from the readers themselves, so that formats of plugins are listed as well.
    kinds = []
    for name in READERS.names():
        reader = READERS.get(name, where="readers")
        options = "".join(f" (?{key}={option.default})" for key, option in reader.options.items())
        kinds.append(f"{reader.usage}{options}")
    return f"The data: {', '.join(kinds)}."


def run(args: Namespace) -> Outcome:
    """Print a description of the dataset with all findings."""
    from rl_transformer.runtime.paths import check_writable
    from rl_transformer.trajectories.finding_kinds import finding_kinds, findings_page
    from rl_transformer.trajectories.findings import finding_text
    from rl_transformer.trajectories.inspection import as_text, describe
    from rl_transformer.trajectories.leakage import find_leakage

    if args.kinds:
        print(findings_page(), end="")
        return Outcome({"kinds": [vars(kind) for kind in finding_kinds()]})
    if args.uri is None:
        raise RLTransformerError(
            "no data is named", where="rlt inspect", fix="name it as a URI; see rlt inspect --help"
        )
    if (args.entity or args.time) and args.against is None:
        fix = "pass --against with the test data, or leave it out"
        raise RLTransformerError("is for comparing two data sets", where="--entity, --time", fix=fix)
    for path, suffix in ((args.figure, ".png"), (args.html, ".html")):
        check_writable(path, suffix)
    dataset = _read(args, args.uri)
    leakage = find_leakage(dataset)
    description = describe(dataset)
    print(as_text(description))
    for finding in leakage:
        print(finding_text(finding))
    description["leakage"] = [finding.to_dict() for finding in leakage]
    other, differences = _compared(args, dataset)
    if other is not None:
        description["against"] = {"uri": args.against, "findings": [finding.to_dict() for finding in differences]}
    _draw(args, dataset, leakage, other, differences)
    is_refused = description["refused"]
    if args.fix is not None:
        description["fixed"] = _fixed(args, dataset)
        is_refused = False  # what was written has no error
    # The description is a success of this command; the exit code tells scripts that training, or judging, would fail.
    is_worthless = any(finding.level == "error" for finding in differences)
    return Outcome(description, exit_code=2 if is_refused or is_worthless else 0)


def _read(args: Namespace, uri: str) -> TrajectoryDataset:
    from rl_transformer.trajectories.open import read_trajectories

    # Only given if set: other readers than that of stores have no such option and would raise an error.
    options = {"verify": True} if args.verify else {}
    return read_trajectories(uri, observe=args.observe, clip_actions=args.clip_actions, **options)


def _compared(args: Namespace, dataset: TrajectoryDataset) -> tuple[TrajectoryDataset | None, list[Finding]]:
    """Return the data of --against, and what was found by comparing, after printing it."""
    if args.against is None:
        return None, []
    from rl_transformer.trajectories.findings import finding_text
    from rl_transformer.trajectories.splits import compare_splits

    other = _read(args, args.against)
    findings = compare_splits(dataset, other, entity=args.entity, time=args.time or "")
    print(f"against {args.against}: {len(other)} episodes, {other.num_steps} steps")
    for finding in findings:
        print(finding_text(finding))
    return other, findings


def _draw(
    args: Namespace,
    dataset: TrajectoryDataset,
    leakage: list[Finding],
    other: TrajectoryDataset | None,
    differences: list[Finding],
) -> None:
    """Write the figure and the page that were asked for."""
    figure, page = optional_path(args.figure), optional_path(args.html)
    if figure is not None:
        from rl_transformer.evaluation.plots import plot_data

        plot_data(dataset.episode_returns.tolist(), dataset.lengths.tolist(), figure)
    if page is not None:
        from rl_transformer.evaluation.data_page import data_page
        from rl_transformer.runtime.files import write_output

        page.parent.mkdir(parents=True, exist_ok=True)
        write_output(page, data_page(dataset, leakage, other, differences))


def _fixed(args: Namespace, dataset: TrajectoryDataset) -> dict:
    """Write the clean store, print what was done, and return it JSON-ready."""
    from rl_transformer.trajectories.cures import write_cured
    from rl_transformer.trajectories.open import stream_trajectories

    def source() -> Source:
        return stream_trajectories(args.uri, observe=args.observe, clip_actions=args.clip_actions)

    treatment = write_cured(source, dataset, args.fix)
    print(treatment)
    return treatment.to_dict()
