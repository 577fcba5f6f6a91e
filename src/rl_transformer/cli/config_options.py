"""Command line options derived from a configuration: one per field, short flags for a few, and a YAML file."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from rl_transformer.cli.command import new_parser
from rl_transformer.config import ConfigBase
from rl_transformer.config.base import type_text
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject

C = TypeVar("C", bound=ConfigBase)
_WIDTH = 110
_ARGUMENTS = (
    ("--output DIR", "The folder to write; must be empty or new, or hold what is continued."),
    ("--config FILE", "Options from a YAML or JSON file, such as a run's config.json."),
    ("--json FILE", "Write the result as JSON to this file."),
    ("--plugin MODULE ...", "Modules of yours to import first; see docs/extending.md."),
)
RESUME = ("--resume", "Continue the run in the folder, or start it if there is none.")


@dataclass(frozen=True)
class Flag:
    """A short spelling of an option."""

    name: str
    """As typed, for example ``--train-steps``."""
    option: str
    """The option it sets, for example training.train_steps."""

    @property
    def key(self) -> str:
        """Its name in the parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")


class _ShowHelp(argparse.Action):
    """Prints a help text of our own and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, text: str = "", help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self._text)
        parser.exit()


def config_parser(
    prog: str,
    usage: str,
    description: str,
    config: ConfigBase,
    flags: Sequence[Flag],
    arguments: Sequence[tuple[str, str]],
) -> ArgumentParser:
    """Return a parser with one option per field of ``config``, short flags, ``--config`` and ``--output``.

    Options that are not given are absent from the result, so that `resolve_config` can tell them from defaults.

    Args:
        prog: The command as typed.
        usage: The usage line.
        description: One line.
        config: Its values are the defaults that the help shows.
        flags: Short spellings of options.
        arguments: (spelling, help) of the command's other arguments, for the help.
    """
    parser = new_parser(prog, description, add_help=False)
    head = [f"usage: {usage}", "", description, ""]
    head += [line for spelled, text in (*_ARGUMENTS, *arguments) for line in _entry(spelled, text)]
    for names, everything in ((("-h", "--help"), False), (("--help-all",), True)):
        text = "\n".join([*head, *_help_lines(config, flags, everything=everything)])
        parser.add_argument(*names, action=_ShowHelp, text=text, help="Show the options.")
    parser.add_argument("--output", type=str, required=True, help="The folder to write.")
    parser.add_argument("--config", type=str | None, default=None, help="Options from a YAML or JSON file.")
    for flag in flags:
        parser.add_argument(flag.name, type=_hint(config, flag.option) | None, default=None)
    _add_options(parser, config)
    return parser


def resolve_config(args: Namespace, config: C, flags: Sequence[Flag]) -> C:
    """Return ``config`` with the values of the file, then of the options, then of the flags.

    Raises:
        RLTransformerError: A file that cannot be read or names an option that does not exist, or a flag
            that differs from its option.
    """
    in_file = {} if args.config is None else dict(_flatten(_read_file(args.config, config)))
    given = {name: value for name, value in _flatten(args.as_dict()) if name in _names(config)}
    values = {**in_file, **given}
    for flag in flags:
        value = args[flag.key]
        if value is None:
            continue
        for source in (given, in_file):
            if flag.option in source and source[flag.option] != value:
                raise RLTransformerError(
                    f"is {value!r}, and {flag.option} is {source[flag.option]!r}",
                    where=flag.name,
                    fix="give only one of them",
                )
        values[flag.option] = value
    for name, value in values.items():
        config.set(name, value)
    config.output = args.output
    return config


def _add_options(parser: ArgumentParser, config: ConfigBase) -> None:
    for name, section, item in config.options():
        hint = get_type_hints(type(section))[item.name]
        parser.add_argument(f"--{name}", type=hint, default=argparse.SUPPRESS, help=item.metadata["help"])


def _hint(config: ConfigBase, name: str) -> Any:
    section, _, key = name.partition(".")
    return get_type_hints(type(config.sections()[section]))[key]


def _names(config: ConfigBase) -> set[str]:
    return {name for name, _, _ in config.options()}


def _flatten(values: JsonMapping) -> Iterator[tuple[str, Any]]:
    """Yield (section.field, value) of nested values."""
    for section, options in values.items():
        if isinstance(options, Mapping):
            for key, value in options.items():
                yield f"{section}.{key}", value


def _read_file(path: str, config: ConfigBase) -> JsonObject:
    """Return the options that a file sets, checked and converted by the parser as if they had been typed."""
    fix = "write it as YAML or JSON sections, such as a run's config.json"
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        kind = "is not text" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        raise RLTransformerError(f"{kind}: {' '.join(str(error).split())[:300]}", where=path, fix=fix) from None
    if not isinstance(values, dict):
        raise RLTransformerError("does not hold sections of options", where=path, fix=fix)
    values.pop("output", None)  # a run's config.json holds its own
    values = type(config).migrate(values)
    type(config).from_dict(values, where=path)  # refuses unknown options by name
    parser = new_parser("config", "", add_help=False)
    _add_options(parser, config)
    try:
        return parser.parse_object(values, defaults=False).as_dict()
    except ArgumentError as error:
        raise RLTransformerError(" ".join(str(error).split())[:300], where=path, fix=fix) from None


def _help_lines(config: ConfigBase, flags: Sequence[Flag], *, everything: bool) -> Iterator[str]:
    short = {flag.option: flag.name for flag in flags}
    section_name = ""
    for name, section, item in config.options():
        if not everything and not item.metadata["common"]:
            continue
        if not name.startswith(f"{section_name}."):
            section_name = name.partition(".")[0]
            yield ""
            yield f"{section_name}: {(type(section).__doc__ or '').splitlines()[0]}"
        spelled = f"{short[name]}, --{name}" if name in short else f"--{name}"
        value = getattr(section, item.name)
        yield from _entry(spelled, f"{item.metadata['help']} [{_default_text(value)}]")
    if not everything:
        yield ""
        yield "--help-all shows all options; rlt options shows their types and bounds too."


def _entry(spelled: str, text: str) -> Iterator[str]:
    """Yield an option and its help, on one line if there is room."""
    indent = " " * 34
    wrapped = textwrap.wrap(text, _WIDTH - len(indent))
    if len(spelled) <= len(indent) - 4:
        yield f"  {spelled:<{len(indent) - 2}}{wrapped[0]}"
        wrapped = wrapped[1:]
    else:
        yield f"  {spelled}"
    for line in wrapped:
        yield indent + line


def _default_text(value: Any) -> str:
    if value is None or value == "":
        return "not set" if value == "" else "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def option_rows(config: ConfigBase) -> list[JsonObject]:
    """Return every option of a configuration with type, default, bounds and help, JSON-ready."""
    from rl_transformer.config.base import bounds_text

    values = config.to_dict()
    rows = []
    for name, section, item in config.options():
        section_name, _, key = name.partition(".")
        rows.append(
            {
                "option": name,
                "type": type_text(get_type_hints(type(section))[item.name]),
                "default": values[section_name][key],
                "bounds": bounds_text(item),
                "help": item.metadata["help"],
                "common": item.metadata["common"],
            }
        )
    return rows
