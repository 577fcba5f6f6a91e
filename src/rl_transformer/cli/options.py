"""`rlt options` lists every option of a training run."""

from __future__ import annotations

import json

from jsonargparse import ArgumentParser, Namespace

from rl_transformer.cli.command import Outcome, new_parser
from rl_transformer.cli.config_options import option_rows
from rl_transformer.config import PRESETS, RunConfig, preset


def make_parser(prog: str, first: str | None) -> ArgumentParser:
    """Return the parser of the command."""
    parser = new_parser(prog, "List every option of a training run with its type, default and bounds.")
    parser.add_argument("--markdown", action="store_true", help="Print the page docs/reference/options.md.")
    return parser


def run(args: Namespace) -> Outcome:
    """Print the options, as text or as the page of the documentation."""
    rows = [{**row, "presets": _presets(row)} for row in option_rows(RunConfig())]
    if args.markdown:
        print(as_markdown(rows))
        return Outcome(rows)
    for row in rows:
        bounds = f", {row['bounds']}" if row["bounds"] else ""
        print(f"{row['option']}  ({row['type']}, default {json.dumps(row['default'])}{bounds})")
        print(f"    {row['help']}")
        for name, value in row["presets"].items():
            print(f"    preset {name}: {json.dumps(value)}")
    return Outcome(rows)


def _presets(row: dict) -> dict:
    """Return the values of presets that differ from the option's default, by preset."""
    # Sections and fields are plain data, so comparing dictionaries of values is enough.
    section, _, key = row["option"].partition(".")
    values = {name: preset(name).to_dict()[section][key] for name in PRESETS}
    return {name: value for name, value in values.items() if value != row["default"]}


def as_markdown(rows: list[dict]) -> str:
    """Return the page docs/reference/options.md."""
    # Written by the program, and compared by a test, so that the page cannot differ from the code.
    lines = [
        "# Options",
        "",
        "Every option of `rlt train`, as `--section.field VALUE`, in a file for `--config`, or as",
        "`config.section.field` in Python. This page is written by `rlt options --markdown`.",
    ]
    section = ""
    for row in rows:
        name = row["option"].partition(".")[0]
        if name != section:
            section = name
            description = (type(RunConfig().sections()[name]).__doc__ or "").splitlines()[0]
            lines += ["", f"## {name}", "", description, ""]
            lines += ["| option | type | default | bounds | presets | meaning |", "|---|---|---|---|---|---|"]
        presets = "; ".join(f"{key}: `{json.dumps(value)}`" for key, value in row["presets"].items())
        kind = row["type"].replace("|", "\\|")  # a bare | would begin the next column
        default = json.dumps(row["default"])
        lines.append(f"| `{row['option']}` | {kind} | `{default}` | {row['bounds']} | {presets} | {row['help']} |")
    return "\n".join(lines)
