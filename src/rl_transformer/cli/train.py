"""`rlt train` and `rlt sweep`: every field of the configuration is an option; a few have short flags."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from rl_transformer.config.run import RunConfig, ConfigBase
from rl_transformer.errors import RLTransformerError
from rl_transformer.config.presets import PRESETS, preset

C = TypeVar("C", bound=ConfigBase)
Flags = Mapping[str, tuple[str, str, str]]
"""Short flag -> the section and field it sets, and its help."""

FLAGS: Flags = {
    "data": ("dataset", "uri", "Logged data: minari:NAMESPACE/NAME-v0, d4rl:FILE.hdf5 or rlt:FOLDER."),
    "train_steps": ("training", "train_steps", "Updates."),
    "seed": ("training", "seed", "Seed of everything that is drawn."),
    "checkpoint_every": ("training", "checkpoint_every", "Updates between resumable checkpoints."),
}


def add_train_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt train`."""
    add_recipe_arguments(parser, arguments)
    parser.add_argument(
        "--json", type=str | None, default=None, help="Write where the policy is, and its hash, to this file."
    )
    parser.add_argument(
        "--seeds",
        type=str | None,
        default=None,
        help="A range such as 0..7: one run a seed, in seed-N below --output; together on a GPU.",
    )
    parser.add_argument(
        "--resume", action="store_true", help="Continue the run in the folder, or start it if there is none."
    )


def add_recipe_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the short flags and one option a field, with the named preset's values as defaults."""
    named = [argument for argument in arguments[:2] if argument in PRESETS]
    parser.add_argument("preset", choices=list(PRESETS), help="The recipe; the defaults below are its own.")
    add_configuration(parser, preset(named[0] if named else "gym"), FLAGS)


def add_configuration(parser: ArgumentParser, config: ConfigBase, flags: Flags) -> None:
    """Declare ``--output``, ``--config``, short flags, and one option a field with its value as the default."""
    parser.add_argument(
        "--output", help="The folder; must be empty or new, or hold what this command may continue.", required=True
    )
    for flag, (section, name, text) in flags.items():
        kind = get_type_hints(type(getattr(config, section)))[name]
        parser.add_argument(
            f"--{flag.replace('_', '-')}", type=kind | None, default=None, help=f"{text} Sets {section}.{name}."
        )
    parser.add_argument(
        "--config", action="config", help="Options from a YAML or JSON file, such as a run's config.json."
    )
    for section_field in fields(config):
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


def add_sweep_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Declare the options of `rlt sweep`."""
    add_recipe_arguments(parser, arguments)
    parser.add_argument("--space", required=True, help="YAML file: which options to search, and where.")
    parser.add_argument("--trials", type=int, required=True, help="Trials in all, those of earlier calls included.")
    parser.add_argument("--json", type=str | None, default=None, help="Write all trials, the best first, to this file.")


def run_sweep(args: Any, arguments: Sequence[str]) -> None:
    """Search options."""
    config = _resolved(args, arguments)
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.launch.sweep import read_space, sweep

    check_writable(args.json)
    if args.trials < 1:
        raise RLTransformerError(f"{args.trials} is not positive", where="--trials", fix="give 1 or more")
    result = sweep(config, read_space(Path(args.space), config), num_trials=args.trials)
    print(f"best: trial {result['best']['trial']}, {result['best']['options']}, score {result['best']['score']:.4g}")
    if args.json:
        write_text(Path(args.json), to_json(result))


def run_train(args: Any, arguments: Sequence[str]) -> None:
    """Train a policy."""
    config = _resolved(args, arguments)
    from rl_transformer.runtime.files import check_writable, to_json, write_text
    from rl_transformer.policy import load_policy
    from rl_transformer.run import train, train_seeds

    check_writable(args.json)
    if args.seeds is not None:
        seeds = _range(args.seeds)
        if args.seed is not None or _is_given(arguments, "--training.seed"):
            raise RLTransformerError("there is a seed beside the range", where="--seeds", fix="give only one of them")
        folders = train_seeds(config, seeds, resume=args.resume)
        print(f"policies: {folders[0]} ... {folders[-1]}")
        if args.json:
            runs = [
                {"seed": seed, "output": str(folder), "policy": load_policy(folder).content_hash}
                for seed, folder in zip(seeds, folders, strict=True)
            ]
            write_text(Path(args.json), to_json({"runs": runs, "train_steps": config.training.train_steps}))
        return
    folder = train(config, resume=args.resume)
    print(f"policy: {folder / 'policy'}")
    if args.json:
        content = {
            "output": str(folder),
            "policy": load_policy(folder).content_hash,
            "train_steps": config.training.train_steps,
        }
        write_text(Path(args.json), to_json(content))


def _range(text: str) -> list[int]:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise RLTransformerError(f"{text!r} is not a range", where="--seeds", fix="write it as 0..7, the last included")
    return list(range(int(first), int(last) + 1))


def _resolved(args: Any, arguments: Sequence[str]) -> RunConfig:
    """Return the configuration of a run."""
    return resolved(args, arguments, args.preset, RunConfig, FLAGS)


def resolved(args: Any, arguments: Sequence[str], first: str, kind: type[C], flags: Flags) -> C:
    """Merge flags, options and file into one configuration; ``first`` is the word on which the defaults depend."""
    if arguments[1:2] != [first]:
        raise RLTransformerError(
            f"{first} stands after options, whose defaults depend on it",
            where=f"rlt {arguments[0]}",
            fix=f"write it first: rlt {arguments[0]} {first} ...",
        )
    values = {f.name: args[f.name].as_dict() for f in fields(kind) if f.name != "output"}
    in_files = _file_values(arguments)
    for flag, (section, name, _) in flags.items():
        given = args[flag]
        if given is None:
            continue
        stated = [values[section][name]] if _is_given(arguments, f"--{section}.{name}") else []
        stated += [file[section][name] for file in in_files if name in (file.get(section) or {})]
        for value in stated:
            if value != given:
                raise RLTransformerError(
                    f"is {given!r}, and {section}.{name} is {value!r}",
                    where=f"--{flag.replace('_', '-')}",
                    fix="give only one of them",
                )
        values[section][name] = given
    return kind.from_dict({**values, "output": args.output})


def _is_given(arguments: Sequence[str], option: str) -> bool:
    return any(argument == option or argument.startswith(f"{option}=") for argument in arguments)


def _file_values(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the files of --config say; the parser has read and checked them already."""
    paths = [value for word, value in pairwise(arguments) if word == "--config"]
    paths += [word.partition("=")[2] for word in arguments if word.startswith("--config=")]
    return [yaml.safe_load(Path(path).read_text()) or {} for path in paths]
