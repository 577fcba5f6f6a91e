"""`rlt compare` compares evaluations, and says what their differences establish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import check_writable, user_path

if TYPE_CHECKING:
    from rl_transformer.evaluation.stored_reports import Side, StoredReport


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(
        prog, "Compare evaluations with the first one: differences with intervals, and what they establish."
    )
    parser.add_argument(
        "reports", type=str, nargs="+", help="report.json files, run folders, or folders of rlt train --seeds."
    )
    parser.add_argument(
        "--paired", action="store_true", help="Compare seed by seed; all sides need the same training seeds."
    )
    parser.add_argument(
        "--target-return", type=float | None, default=None, help="Target return to compare at, if a report has several."
    )
    parser.add_argument(
        "--margin",
        type=float | None,
        default=None,
        help="Non-inferiority margin: the largest loss that does not matter; also judges 'not worse'.",
    )
    parser.add_argument("--csv", type=str | None, default=None, help="Write one row per side to this file.")
    parser.add_argument("--latex", type=str | None, default=None, help="Write a LaTeX table to this file.")
    parser.add_argument("--figure", type=str | None, default=None, help="Draw means and intervals into this PNG file.")
    return parser


def run(args: Namespace) -> Outcome:
    """Read the reports, and print means and differences."""
    from rl_transformer.evaluation.comparison import compare
    from rl_transformer.evaluation.comparison_tables import as_csv, as_latex, as_text, plot_comparison
    from rl_transformer.runtime.files import write_output

    check_writable(args.csv)
    check_writable(args.latex)
    check_writable(args.figure, ".png")
    sides = [_read_side(name, args.target_return) for name in args.reports]
    if args.target_return is not None and all(side.first["target_return"] is None for side in sides):
        raise RLTransformerError("no policy here takes a target return", where="--target-return", fix="leave it out")
    comparison = compare(sides, paired=args.paired, margin=args.margin)
    print(as_text(comparison))
    if args.csv:
        write_output(user_path(args.csv), as_csv(comparison))
    if args.latex:
        write_output(user_path(args.latex), as_latex(comparison))
    if args.figure:
        plot_comparison(comparison, user_path(args.figure))
    return Outcome(comparison)


def _read_side(name: str, target_return: float | None) -> Side:
    """Return the evaluation, or evaluations of several training seeds, that a file or folder holds."""
    from rl_transformer.evaluation.stored_reports import make_side, read_report
    from rl_transformer.launch.seeds import seed_folders

    path = user_path(name)
    if not path.is_dir():
        return make_side(name, {None: read_report(path)}, target_return)
    fix = f"evaluate first: rlt evaluate {name} --env-id ID --json FILE, and compare FILE"
    folders = seed_folders(path)
    is_evaluated = any((folder / "report.json").exists() for folder in folders.values())
    if is_evaluated and (path / "report.json").exists():
        # Which of the two is meant cannot be known, and they may differ.
        fix = f"name {path / 'report.json'} itself, or move it away to compare the reports in seed-N"
        raise RLTransformerError("holds a report.json next to folders of seeds", where=path, fix=fix)
    if not folders or (path / "report.json").exists():
        return make_side(name, {None: read_report(path / "report.json", fix=fix)}, target_return)
    reports: dict[int | None, StoredReport] = {}
    for seed, folder in folders.items():
        report = reports[seed] = read_report(folder / "report.json", fix=fix)
        if report.seeds:
            fix = "name a folder whose seed-N folders hold one run each"
            raise RLTransformerError("is of several training seeds", where=report.path, fix=fix)
    return make_side(name, reports, target_return)
