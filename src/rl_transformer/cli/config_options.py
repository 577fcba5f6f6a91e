"""Derive command line options from a configuration: one per field, short flags for a few, and a YAML or JSON file."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from rl_transformer.cli.command import new_parser
from rl_transformer.config import ConfigBase
from rl_transformer.config.base import type_hints, type_text
from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.paths import user_path
from rl_transformer.runtime.plugins import MODULE_OPTIONS, refuse_named_module
from rl_transformer.runtime.reading import read_yaml
from rl_transformer.runtime.types import JsonMapping, JsonObject

C = TypeVar("C", bound=ConfigBase)
_WIDTH = 110  # columns of the help text
# Arguments that are not options of the configuration, with their help.
_ARGUMENTS = (
    ("--output DIR", "Folder to write; it must be empty or new, unless --resume is given."),
    ("--config FILE", "Options from a YAML or JSON file, such as a run's config.json."),
    ("--json FILE", "Write the result as JSON to this file."),
    ("--plugin MODULE", "Your own module to import first; may be repeated. See docs/extending.md."),
)
_FILE_FIX = "write it as YAML or JSON sections, such as a run's config.json"
RESUME = ("--resume", "Continue the run in the folder, or start it if there is none.")


@dataclass(frozen=True)
class Flag:
    """Declares a short name of an option."""

    name: str
    """Flag as the user types it, for example ``--train-steps``."""
    option: str
    """Option that the flag sets, for example training.train_steps."""

    @property
    def key(self) -> str:
        """Name of the flag in the parsed arguments."""
        return self.name.removeprefix("--").replace("-", "_")


class _ShowHelp(argparse.Action):
    """Prints a given help text and exits."""

    # argparse's own help would list more than a hundred options alphabetically, without sections or defaults.

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
    """Return a parser with one option per field of ``config``, the flags, ``--config`` and ``--output``.

    Args:
        prog: The command as the user types it.
        usage: The usage line.
        description: The description, one line.
        config: Configuration whose values the help shows as defaults.
        flags: Short names of options.
        arguments: (argument, help) for each further argument of the command, which the caller declares.
    """
    # Two helps with texts of our own: the common options, and all of them.
    parser = new_parser(prog, description, add_help=False)
    head = [f"usage: {usage}", "", description, ""]
    head += [line for spelled, text in (*_ARGUMENTS, *arguments) for line in _entry(spelled, text)]
    for names, everything in ((("-h", "--help"), False), (("--help-all",), True)):
        text = "\n".join([*head, *_help_lines(config, flags, everything=everything)])
        parser.add_argument(*names, action=_ShowHelp, text=text, help="Show the options.")
    parser.add_argument("--output", type=str, required=True, help="Folder to write.")
    parser.add_argument("--config", type=str | None, default=None, help="Options from a YAML or JSON file.")
    # Flags have no default, so that None means "not given" and a flag never overrides its option by accident.
    for flag in flags:
        parser.add_argument(flag.name, type=_hint(config, flag.option) | None, default=None)
    _add_options(parser, config)
    return parser


def resolve_config(args: Namespace, config: C, flags: Sequence[Flag]) -> C:
    """Return ``config`` after setting the values of the file, then those of the options and flags.

    Args:
        args: Result of a `config_parser`.
        config: Defaults; changed in place.
        flags: The parser's flags.

    Raises:
        RLTransformerError: The file cannot be read or contains an unknown option, or a flag contradicts its option.
    """
    # The command line overrides the file. A flag and its option on the same command line must agree: if the two differ,
    # one of them is a mistake, and choosing either would ignore what the user wrote.
    in_file = {} if args.config is None else dict(_flatten(_typed_values(args.config, config, args.output)))
    given = {name: value for name, value in _flatten(args.as_dict()) if name in _names(config)}
    for name in MODULE_OPTIONS:
        if name not in given:
            refuse_named_module(name, in_file.get(name), where=args.config)
    values = {**in_file, **given}
    for flag in flags:
        value = args[flag.key]
        if value is None:
            continue
        if given.get(flag.option, value) != value:
            raise RLTransformerError(
                f"is {value!r}, but {flag.option} is {given[flag.option]!r}",
                where=flag.name,
                fix="pass only one of them",
            )
        given[flag.option] = values[flag.option] = value
    # Said aloud, because the file is often the config.json of a run, which sets every option.
    changed = [
        f"{name} {in_file[name]} -> {value}" for name, value in given.items() if in_file.get(name, value) != value
    ]
    if changed:
        print(f"note: options that differ from {args.config}: {', '.join(changed)}", flush=True)
    for name, value in values.items():
        config.set(name, value)
    config.output = args.output
    return config


def _add_options(parser: ArgumentParser, config: ConfigBase) -> None:
    """Declare one option per field; options that the user does not give are absent from the parsed arguments."""
    # Without SUPPRESS every option would come back with its default, and override the file's value.
    for name, section, item in config.options():
        hint = type_hints(type(section))[item.name]
        parser.add_argument(f"--{name}", type=hint, default=argparse.SUPPRESS, help=item.metadata["help"])


def _hint(config: ConfigBase, name: str) -> Any:
    """Return the type of the option ``name``."""
    section, _, key = name.partition(".")
    return type_hints(type(config.sections()[section]))[key]


def _names(config: ConfigBase) -> set[str]:
    """Return the names of all options."""
    return {name for name, _, _ in config.options()}


def _flatten(values: JsonMapping) -> Iterator[tuple[str, Any]]:
    """Yield (section.field, value) for every value of nested sections."""
    for section, options in values.items():
        if isinstance(options, Mapping):
            for key, value in options.items():
                yield f"{section}.{key}", value


def read_options_file(path: str) -> JsonObject:
    """Return the sections of a YAML or JSON file as they are written.

    Raises:
        RLTransformerError: The file cannot be read or does not hold sections.
    """
    # JSON is a subset of YAML, so one reader serves both.
    if user_path(path).is_dir():
        raise RLTransformerError("is a folder", where=path, fix=f"name a file, such as {path.rstrip('/')}/config.json")
    if not user_path(path).exists():
        raise RLTransformerError("no such file", where=path, fix="name an existing YAML or JSON file")
    return read_yaml(user_path(path), fix=_FILE_FIX)


def _nested(values: JsonMapping) -> JsonObject:
    """Return options as sections; those that are written as ``section.field``, as on the command line, join theirs."""
    nested: JsonObject = {}
    for name, value in values.items():
        section, dot, key = str(name).partition(".")
        if not dot:
            nested[section] = {**value, **nested.get(section, {})} if isinstance(value, Mapping) else value
        elif isinstance(nested.setdefault(section, {}), dict):
            if key in nested[section] or (isinstance(values.get(section), Mapping) and key in values[section]):
                raise RLTransformerError(f"sets {name} twice", where="--config", fix="write it once")
            nested[section][key] = value
    return nested


def _typed_values(path: str, config: ConfigBase, output: str) -> JsonObject:
    """Return the options in a file, with the types that the same values on the command line would have.

    Raises:
        RLTransformerError: The file cannot be read, or contains an unknown option or a value of the wrong type.
    """
    values = read_options_file(path)
    # A run's config.json contains the folder of that run, and its preset, which the caller has looked at.
    for name in ("output", "preset"):
        if not isinstance(values.get(name), dict):
            given = values.pop(name, None)
            if name == "output" and given not in (None, output) and not _is_of_run(path):
                print(f"note: {path} names the output {given!r:.200}; --output {output} is used", flush=True)
    values = type(config).migrate(_nested(values))
    type(config).from_dict(values, where=path)  # raises an error for unknown options, with similar names
    # YAML reads 1e-4 as a string, because its numbers need a dot. The parser converts values as on the command line.
    parser = new_parser("config", "", add_help=False)
    _add_options(parser, config)
    try:
        return parser.parse_object(values, defaults=False).as_dict()
    except ArgumentError as error:
        raise RLTransformerError(" ".join(str(error).split())[:300], where=path, fix=_FILE_FIX) from None


def _is_of_run(path: str) -> bool:
    """Return True for the config.json of a run folder, whose other files lie beside it."""
    file = user_path(path)
    return file.name == "config.json" and any((file.parent / name).exists() for name in ("run.json", "finished.json"))


def _help_lines(config: ConfigBase, flags: Sequence[Flag], *, everything: bool) -> Iterator[str]:
    """Yield the help of all options, or of the common ones, by section."""
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
        yield "--help-all shows all options; rlt options also shows their types and bounds."


def _entry(spelled: str, text: str) -> Iterator[str]:
    """Yield the lines for one option; its help begins on the same line if there is room."""
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
    """Return a default as the user would type it."""
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
                "type": type_text(type_hints(type(section))[item.name]),
                "default": values[section_name][key],
                "bounds": bounds_text(item),
                "help": item.metadata["help"],
                "common": item.metadata["common"],
            }
        )
    return rows
