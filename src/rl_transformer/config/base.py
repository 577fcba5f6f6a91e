"""Declare options as dataclass fields, each with its type, default, bounds and line of help."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import cache
from pathlib import PurePath
from types import UnionType
from typing import ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from rl_transformer.errors import RLTransformerError, did_you_mean
from rl_transformer.runtime.types import JsonMapping, JsonObject, OptionValue

Problem = tuple[str, str, str]
"""A tuple of an option (section.name), the problem with its value, and the fix."""


def option(
    default: OptionValue,
    text: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    not_empty: bool = False,
    common: bool = False,
) -> OptionValue:
    """Declare an option of a section.

    Args:
        default: Default value; lists and dicts are copied for every configuration.
        text: One line of help.
        above: The value must be larger than this.
        at_least: The value must be this or larger.
        below: The value must be smaller than this.
        at_most: The value must be this or smaller.
        not_empty: Strings and lists must not be empty; None is allowed.
        common: Show the option in ``--help``; other options appear in ``--help-all`` only.
    """
    # Command line, checks, help and documentation all read this metadata, so an option is declared in one place.
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    metadata = {"help": text, "bounds": bounds, "not_empty": not_empty, "common": common}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


# Evaluating the annotations, which are text, takes longer than all checks of a run's options.
type_hints = cache(get_type_hints)


class Section:
    """Base class of the sections, which are dataclasses; setting an attribute that is not an option is an error."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    def __setattr__(self, name: str, value: OptionValue) -> None:
        # Python would accept config.training.learning_rat = 1e-3, and the run would use the default without notice.
        if name not in type(self).__dataclass_fields__:
            raise self._unknown(name, type(self).__name__)
        # Numbers of NumPy are what loops over np.arange give; JSON and the checks of types know plain ones only.
        super().__setattr__(name, value.item() if hasattr(value, "dtype") and hasattr(value, "item") else value)

    def __delattr__(self, name: str) -> None:
        # Reading it would then give the default of the class, which is not that of the preset.
        raise RLTransformerError(
            f"the option {name} cannot be deleted", where=type(self).__name__, fix="set it to the value that you want"
        )

    def _unknown(self, name: str, where: object) -> RLTransformerError:
        """Return the error for an option that does not exist."""
        return unknown_option(name, list(type(self).__dataclass_fields__), where=where)

    def problems(self) -> Iterator[Problem]:
        """Yield (option, problem, fix) for contradictions between options of this section; names have no prefix."""
        yield from ()


@dataclass(kw_only=True, repr=False)
class ConfigBase(Section):
    """Base class of configurations, which consist of sections; each section is a dataclass of plain values."""

    output: str = option("", "Folder to write.")

    def __setattr__(self, name: str, value: OptionValue) -> None:
        before = vars(self).get(name)
        if isinstance(before, Section) and not isinstance(value, type(before)):
            raise RLTransformerError(
                f"{name} is a section of options, and {value!r:.100} was given",
                where=type(self).__name__,
                fix=f"set its options one by one, for example config.{name}.{next(iter(vars(before)))} = ...",
            )
        super().__setattr__(name, str(value) if name == "output" and isinstance(value, PurePath) else value)

    def _unknown(self, name: str, where: object) -> RLTransformerError:
        """Return the error for a name that is neither a section nor an option of one."""
        known = [*type(self).__dataclass_fields__, *(option for option, _, _ in self.options())]
        return unknown_option(name, known, where=where)

    def __repr__(self) -> str:
        # All options would fill a page; what was set is what a reader wants to see.
        before = self.defaults()
        own = {name: value for name, value in vars(self).items() if isinstance(value, str) and value}
        changed = {name: self.get(name) for name, _, _ in self.options() if self.get(name) != before.get(name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in {**own, **changed}.items())})"

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            name: {key: _to_json(inner) for key, inner in value.items()} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def migrate(cls, values: JsonMapping) -> JsonObject:
        """Return values that an earlier version wrote, with the current names of options."""
        return dict(values)

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object = "config.json") -> Self:
        """Return the configuration that `to_dict` was called on, in this version or an earlier one.

        Args:
            values: Options by section; absent ones have their defaults.
            where: Source of the values, for messages.

        Raises:
            RLTransformerError: An option does not exist; similar names are suggested.
        """
        # Only names are checked here. Types and bounds are checked by `check_values`, which the caller runs once all
        # sources of options are merged.
        config = cls()
        for name, value in cls.migrate(values).items():
            _assign(config, name, value, where)
        for section in config.sections().values():
            _lists_to_tuples(section)
        return config

    def sections(self) -> dict[str, Section]:
        """Return the sections by name."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Section)}

    def options(self) -> Iterator[tuple[str, Section, Field]]:
        """Yield (name, section object, dataclass field) for every option; the name is section.field."""
        for section_name, section in self.sections().items():
            for item in type(section).__dataclass_fields__.values():
                yield f"{section_name}.{item.name}", section, item

    def defaults(self) -> Self:
        """Return a configuration of the same class in which every option has its default."""
        return type(self)()

    def get(self, name: str) -> OptionValue:
        """Return the value of the option ``section.field``."""
        section, _, key = name.partition(".")
        return getattr(getattr(self, section), key)

    def set(self, name: str, value: OptionValue) -> None:
        """Set the option ``section.field``.

        Raises:
            RLTransformerError: There is no such option; similar names are suggested.
        """
        section, _, key = name.partition(".")
        if section not in self.sections():
            raise unknown_option(name, [known for known, _, _ in self.options()], where=type(self).__name__)
        setattr(getattr(self, section), key, value)

    def check_values(self) -> None:
        """Check types, bounds, and the options of each section against each other.

        Raises:
            RLTransformerError: The first value that is wrong.
        """
        # All types come first: the rules of a section compare values and rely on their types.
        for name, section, item in self.options():
            _check_type(name, getattr(section, item.name), type_hints(type(section))[item.name])
            for problem, fix in _out_of_bounds(getattr(section, item.name), item):
                raise RLTransformerError(problem, where=name, fix=fix)
        for section_name, section in self.sections().items():
            for name, problem, fix in section.problems():
                raise RLTransformerError(problem, where=f"{section_name}.{name}", fix=fix)


def unknown_option(name: str, known: list[str], *, where: object) -> RLTransformerError:
    """Return the error for an option that does not exist; its fix suggests similar names."""
    # The last part of an option's name is how people remember it.
    same = [option for option in known if option.rpartition(".")[2] == name]
    hint = f"did you mean {' or '.join(same)}? " if same else did_you_mean(name, known)
    if name == "keep_unfinished":  # an option of earlier versions, which only one reader ever had
        hint = "append ?keep_unfinished=true to the URI of d4rl: data; "
    return RLTransformerError(
        f"there is no option {name!r}",
        where=where,
        fix=f"{hint}remove or correct it; rlt options lists the options of a run",
    )


def _to_json(value: OptionValue) -> OptionValue:
    """Return tuples as lists, so that a value equals itself after being written and read."""
    return list(value) if isinstance(value, tuple) else value


def _assign(config: Section, name: str, value: OptionValue, where: object) -> None:
    """Set an option, or all options of a section if ``value`` is a mapping."""
    if name not in type(config).__dataclass_fields__:
        raise config._unknown(name, where)
    section = getattr(config, name)
    if not isinstance(section, Section):
        setattr(config, name, value)
        return
    if not isinstance(value, Mapping):
        problem = f"{name} is {value!r:.100}, not a section of options"
        raise RLTransformerError(
            problem, where=where, fix=f"write it as a mapping, for example {name}: {{option: value}}"
        )
    for key, inner in value.items():
        _assign(section, key, inner, where)


def _lists_to_tuples(section: Section) -> None:
    """Convert lists to tuples for options whose type is a tuple, because JSON and YAML have no tuples."""
    for name, hint in type_hints(type(section)).items():
        if get_origin(hint) is tuple and isinstance(getattr(section, name), list):
            setattr(section, name, tuple(getattr(section, name)))


def _check_type(name: str, value: OptionValue, hint: object) -> None:
    if not fits_type(value, hint):
        raise RLTransformerError(
            f"{value!r:.200} is not of type {type_text(hint)}", where=name, fix="give a value of that type"
        )


def type_text(hint: object) -> str:
    """Return a type as readable text, for example "float | null"."""
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(type_text(part) for part in get_args(hint))
    return (
        "null" if hint is type(None) else str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
    )


def fits_type(value: OptionValue, hint: object) -> bool:
    """Return True if ``value`` is valid for an option of type ``hint``."""
    # Values come from YAML, JSON and Python code, which annotations do not check. A library for this would be one more
    # dependency; options use only these few types.
    origin = get_origin(hint)
    inner = get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(fits_type(value, part) for part in inner)
    if origin is list:
        return isinstance(value, list) and all(fits_type(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits_type(key, inner[0]) and fits_type(item, inner[1]) for key, item in value.items()
        )
    if origin is tuple and inner[-1] is ...:
        return isinstance(value, tuple) and all(fits_type(item, inner[0]) for item in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits_type, value, inner))
    # An integer is a fine float, unless no float is that large. NaN and infinity would pass every comparison with bounds, or
    # break it later.
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return type(value) is hint  # not isinstance(): True is an int for Python, but no sensible number of steps


def bounds_text(item: Field) -> str:
    """Return an option's bounds in words, for example "above 0"; an empty string if there are none."""
    bounds = item.metadata["bounds"]
    return " and ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in bounds.items() if value is not None)


def _out_of_bounds(value: OptionValue, item: Field) -> Iterator[tuple[str, str]]:
    """Yield (problem, fix) for every violated bound; the bounds of a tuple hold for each element."""
    if item.metadata["not_empty"] and value in ("", []):
        yield "is empty", "give a value, or leave the option out"
    bounds = item.metadata["bounds"]
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if number is None or isinstance(number, str | bool | list | dict):
            continue
        inside = (
            (bounds["above"] is None or number > bounds["above"])
            and (bounds["at_least"] is None or number >= bounds["at_least"])
            and (bounds["below"] is None or number < bounds["below"])
            and (bounds["at_most"] is None or number <= bounds["at_most"])
        )
        if not inside:
            yield f"{number} is out of bounds", f"give a value {bounds_text(item)}"
