"""`rlt train`: every field of the configuration is an option; a few have short flags."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser

from rl_transformer.config import RunConfig
from rl_transformer.errors import RLTransformerError
from rl_transformer.presets import PRESETS, preset

# Short flag -> the field it sets.
FLAGS = {
    "data": ("dataset", "uri", "Logged data: minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or rlt:FOLDER."),
    "train_steps": ("training", "train_steps", "Updates."),
    "seed": ("training", "seed", "Seed of everything that is drawn."),
    "checkpoint_every": ("training", "checkpoint_every", "Updates between resumable checkpoints."),
}


def add_train_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the short flags and one option a field, with the named preset's values as defaults."""
    named = [argument for argument in arguments[:2] if argument in PRESETS]
    config = preset(named[0] if named else "gym")
    parser.add_argument("preset", choices=list(PRESETS), help="The recipe; the defaults below are its own.")
    parser.add_argument("--output", help="The run folder; must be empty or new.", required=True)
    hints = get_type_hints(RunConfig)
    for flag, (section, name, text) in FLAGS.items():
        kind = get_type_hints(hints[section])[name]
        parser.add_argument(
            f"--{flag.replace('_', '-')}", type=kind | None, default=None, help=f"{text} Sets {section}.{name}."
        )
    parser.add_argument(
        "--resume", action="store_true", help="Continue the run in the folder, or start it if there is none."
    )
    parser.add_argument(
        "--config", action="config", help="Options from a YAML or JSON file, such as a run's config.json."
    )
    for section_field in fields(RunConfig):
        section = getattr(config, section_field.name)
        if is_dataclass(section):
            _add_section(parser, section_field.name, section)


def _add_section(parser: ArgumentParser, name: str, section: Any) -> None:
    texts, hints = field_texts(type(section)), get_type_hints(type(section))
    group = parser.add_argument_group(f"{name}: {inspect.getdoc(type(section))}")
    for item in fields(section):
        group.add_argument(
            f"--{name}.{item.name}", type=hints[item.name], default=getattr(section, item.name), help=texts[item.name]
        )


def field_texts(cls: type) -> dict[str, str]:
    """Return the line that stands under each field of a dataclass."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            assert isinstance(statement.target, ast.Name)
            texts[statement.target.id] = str(after.value.value)
    return texts


def run_train(args: Any, arguments: Sequence[str]) -> None:
    """Merge flags, options and file into one configuration, and train."""
    values = {f.name: args[f.name].as_dict() for f in fields(RunConfig) if f.name != "output"}
    for flag, (section, name, _) in FLAGS.items():
        given = args[flag]
        if given is None:
            continue
        default = getattr(getattr(preset(args.preset), section), name)
        if values[section][name] not in (default, given) or (
            _is_given(arguments, f"--{section}.{name}") and values[section][name] != given
        ):
            raise RLTransformerError(
                f"is {given!r}, and {section}.{name} is {values[section][name]!r}",
                where=f"--{flag.replace('_', '-')}",
                fix="give only one of them",
            )
        values[section][name] = given
    config = RunConfig.from_dict({**values, "output": args.output})
    from rl_transformer.run import train

    folder = train(config, resume=args.resume)
    print(f"policy: {folder / 'policy'}")


def _is_given(arguments: Sequence[str], option: str) -> bool:
    return any(argument == option or argument.startswith(f"{option}=") for argument in arguments)
