"""`rlt plot` draws learning curves."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import check_writable, user_path
from rl_transformer.runtime.types import JsonObject


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "Draw the loss and the evaluation returns of training runs against updates.")
    parser.add_argument("runs", type=str, nargs="+", help="Run folders, or folders of rlt train --seeds.")
    parser.add_argument("--figure", type=str, required=True, help="PNG file to draw into.")
    return parser


def run(args: Namespace) -> Outcome:
    """Read the metrics, draw them, and print how far each run is."""
    from rl_transformer.evaluation.learning_curves import learning_curves, plot_learning_curves

    check_writable(args.figure, ".png")
    read = {name: _read_rows(name) for name in args.runs}
    curves = {name: learning_curves(rows) for name, rows in read.items()}
    for name, found in curves.items():
        if not found:
            fix = "wait until all seeds have reached the same update, or leave it out"
            raise RLTransformerError("the metrics of its runs have no update in common", where=name, fix=fix)
        seeds = f"{len(read[name])} training seeds" if len(read[name]) > 1 else "one run"
        last = found.get("loss", next(iter(found.values())))["steps"][-1]
        print(f"{name}: {', '.join(found)}; {seeds}, up to update {last}")
        for seed, rows in read[name].items():
            if rows[-1]["step"] > last:
                print(f"note: {name}, {seed} continues to update {rows[-1]['step']}, which the others have not reached")
    plot_learning_curves(list(curves.items()), user_path(args.figure))
    return Outcome(
        {"runs": [{"name": name, "folders": list(read[name]), "curves": found} for name, found in curves.items()]}
    )


def _read_rows(name: str) -> dict[str, list[JsonObject]]:
    """Return the rows of metrics.jsonl of a run, or of each training seed in a folder, by the seed's folder."""
    from rl_transformer.launch.seeds import seed_folders
    from rl_transformer.training.metrics import read_metrics

    path = user_path(name)
    folders = {} if (path / "metrics.jsonl").exists() else seed_folders(path)
    if not folders:
        return {path.name: read_metrics(path)}
    return {folder.name: read_metrics(folder) for folder in folders.values()}
