"""Describe a dataset: its spaces, its source and its environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.types import JsonMapping, JsonObject
from rl_transformer.trajectories.environment_advice import environment_options, wrappers_note
from rl_transformer.trajectories.spaces import KINDS, WIDE, Space
from rl_transformer.trajectories.table_spec import TableSpec

_ACTION_KINDS = ("box", "discrete", "multi_discrete")


@dataclass(frozen=True)
class DataSpec:
    """Holds the spaces of a dataset, and the source's description of it, which is text and never code.

    Raises:
        RLTransformerError: Actions of a kind that policies do not support.
    """

    observation_space: Space
    action_space: Space
    source: str = ""
    """Origin of the data, for messages."""
    env_id: str | None = None
    """Gymnasium id that the source names. It is shown to the user; nothing makes this environment by itself."""
    env_kwargs: JsonMapping | None = None
    """Arguments of the environment that the source names, as plain JSON values; shown to the user like ``env_id``."""
    max_episode_steps: int | None = None
    """Length at which that environment cut episodes; shown to the user like ``env_id``."""
    env_wrappers: tuple[str, ...] = ()
    """Wrappers around that environment, innermost first: ``NAME`` or ``NAME={...}`` for classes of gymnasium.wrappers, and
    ``MODULE:NAME`` for others; shown to the user like ``env_id``."""

    table: TableSpec | None = None
    """What the columns of a table mean, if the data comes from one; see `tables`."""

    def __post_init__(self) -> None:
        # Checked here, so that data, stores and policies of any origin are rejected with the same message.
        if self.action_space.kind not in _ACTION_KINDS or self.action_space.is_image:
            raise RLTransformerError(
                f"actions of kind {self.action_space.kind} are not supported",
                where=self.source or "action space",
                fix="use data with Box, Discrete or MultiDiscrete actions",
            )

    def check_observations(self) -> None:
        """Check that policies support the observation space, or what `observing` left of it.

        Raises:
            RLTransformerError: A part is of a kind that is not supported, or has very many values beside an image.
        """
        # Not checked when the spec is made: the parts to observe are chosen after the source was opened.
        space = self.observation_space
        unsupported = [name for name, part in _named_parts(space) if part.kind not in KINDS]
        images = [name for name, part in _named_parts(space) if part.is_image and not part.parts]
        others = [name for name, part in _named_parts(space) if not part.parts and name not in (*unsupported, *images)]
        if not unsupported and not (space.is_wide and images):
            return
        if unsupported:
            kind = dict(_named_parts(space))[unsupported[0]].kind
            problem = f"the part {unsupported[0]!r} of the observations is {kind}, which is not supported"
            chosen = others
        else:
            problem = f"a part of more than {WIDE} values next to the image {images[0]} is not supported"
            chosen = images
        fix = "record observations of numbers"
        if chosen:
            fix = (
                f"choose the parts to observe: append ?observe={','.join(chosen)} to the URI of the data, or pass "
                f"observe={json.dumps(chosen)} in Python; for an environment, use gymnasium.wrappers.FilterObservation"
            )
        raise RLTransformerError(problem, where=self.source or "observation space", fix=fix)

    def observing(self, patterns: Sequence[str]) -> DataSpec:
        """Return the spec of the same data with only some parts of its observations.

        Args:
            patterns: Names of parts, or globs such as ``"*position"``; a part of a nested space is ``"outer.inner"``,
                and the name of an outer part selects all of it. Parts of a tuple are named by their index. An empty
                sequence selects everything.

        Raises:
            RLTransformerError: The observations have no parts, or a pattern matches none of them.
        """
        patterns = part_names(patterns)
        if not patterns:
            return self
        if self.table is not None:
            raise RLTransformerError(
                "what is observed of a table is chosen by its mapping",
                where="dataset.observe",
                fix="leave it out; list the columns to observe in the mapping",
            )
        names = [name for name, _ in _named_parts(self.observation_space)]
        if not names:
            raise RLTransformerError(
                "the observations have no parts to choose from",
                where="dataset.observe",
                fix="leave it out; it is for Dict and Tuple observations",
            )
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in names):
                raise RLTransformerError(
                    f"no part of the observations matches {pattern!r}",
                    where="dataset.observe",
                    fix=f"choose among {', '.join(names)}",
                )
        return replace(self, observation_space=_select(self.observation_space, patterns, ""))

    @property
    def environment_options(self) -> str:
        """Options of `rlt evaluate` that make the environment that the source names; empty if it names none.

        They are advice to print. An environment is only made when the user passes them.
        """
        if not self.env_id:
            return ""
        return environment_options(self.env_id, self.env_kwargs or {}, self.max_episode_steps, self.env_wrappers)

    @property
    def wrappers_note(self) -> str:
        """What to do about recorded wrappers that `environment_options` cannot make; empty if there are none."""
        return wrappers_note(self.env_wrappers)

    @property
    def environment_note(self) -> str:
        """A sentence about the environment that the source names, with the options that make it; empty if there is none.

        Like `environment_options`, it is only printed.
        """
        if not self.env_id:
            return ""
        note = f"; {self.wrappers_note}" if self.wrappers_note else ""
        return f"this data says where it was made; to act there, pass {self.environment_options}{note}"

    def to_dict(self) -> JsonObject:
        """Return JSON-ready values."""
        values: JsonObject = {
            "observation_space": self.observation_space.to_dict(),
            "action_space": self.action_space.to_dict(),
            "source": self.source,
            "env_id": self.env_id,
        }
        # Absent where there are none, so that stores and policies of such data remain the same files.
        if self.env_kwargs:
            values["env_kwargs"] = dict(self.env_kwargs)
        if self.max_episode_steps is not None:
            values["max_episode_steps"] = self.max_episode_steps
        if self.env_wrappers:
            values["env_wrappers"] = list(self.env_wrappers)
        if self.table is not None:
            values["table"] = self.table.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: JsonMapping, *, where: object) -> DataSpec:
        """Return the description that `to_dict` was called on.

        Raises:
            RLTransformerError: The values do not describe spaces; ``where`` names the file.
        """
        observation, action = (
            Space.from_dict(values.get(f"{name}_space", {}), where=where) for name in ("observation", "action")
        )
        # The file may be anyone's, and all of this is only printed: what has another type is left out.
        env_id = values.get("env_id")
        kwargs = values.get("env_kwargs")
        limit = values.get("max_episode_steps")
        wrappers = values.get("env_wrappers")
        spec = cls(
            observation,
            action,
            str(values.get("source", "")),
            env_id if isinstance(env_id, str) else None,
            dict(kwargs) if isinstance(kwargs, dict) else None,
            limit if type(limit) is int else None,
            tuple(map(str, wrappers)) if isinstance(wrappers, list) else (),
            _table(values.get("table"), observation, action, where),
        )
        spec.check_observations()
        return spec


def _table(values: object, observation: Space, action: Space, where: object) -> TableSpec | None:
    """Return the description of a table in a file, after comparing its sizes with those of the spaces.

    Raises:
        RLTransformerError: It is malformed, or describes other rows.
    """
    if values is None:
        return None
    table = TableSpec.from_dict(values if isinstance(values, Mapping) else {}, where=where)
    masks = len(table.allowed) in (0, action.n)
    if table.observation_space != observation or table.action_space().action_shape != action.action_shape or not masks:
        raise RLTransformerError(
            "the description of the table does not fit the spaces", where=where, fix="restore the file from a copy"
        )
    return table


def part_names(observe: Sequence[str]) -> list[str]:
    """Return the names of parts to observe, of which one may be given alone, and those of a tuple as numbers.

    Raises:
        RLTransformerError: One of them is no name.
    """
    given = [observe] if isinstance(observe, str | Integral) else list(observe)
    for name in given:
        if not isinstance(name, str | Integral) or isinstance(name, bool):
            raise RLTransformerError(
                f"{name!r} is not the name of a part of the observations",
                where="dataset.observe",
                fix='give the names of parts, such as ["image"], or, for a tuple, their indices, such as [1]',
            )
    return [str(name) for name in given]


def _named_parts(space: Space, prefix: str = "") -> Iterator[tuple[str, Space]]:
    """Yield (name, space) for every part and the parts inside of it."""
    for name, part in space.parts:
        yield prefix + name, part
        yield from _named_parts(part, f"{prefix}{name}.")


def _select(space: Space, patterns: Sequence[str], prefix: str) -> Space:
    """Return a dict or tuple space with only the parts that match; the others are listed as ignored."""
    parts = []
    ignored = list(space.ignored)
    for name, part in space.parts:
        full_name = prefix + name
        if any(_matches(full_name, pattern) for pattern in patterns):
            parts.append((name, part))
            continue
        inner = _select(part, patterns, f"{full_name}.")
        if inner.parts:
            parts.append((name, inner))
        else:
            ignored.append(name)
    return replace(space, parts=tuple(parts), ignored=tuple(ignored))


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)  # a name may contain characters that globs give a meaning
