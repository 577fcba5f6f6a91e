"""Read the flags that say how an episode ended, under all the names that programs give them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from rl_transformer.errors import RLTransformerError

# Names in lower case, without the prefixes "is" and "next" and without "_", "." and "/" between the words. They are
# those of gym, gymnasium, D4RL, Minari, RLlib, torchrl, RLDS, Stable-Baselines3, d3rlpy and dm_env.
_TERMINATED = {"terminated", "terminateds", "terminal", "terminals", "termination", "terminations", "term", "absorbing"}
_TRUNCATED = {"truncated", "truncateds", "truncation", "truncations", "timeout", "timeouts", "timelimittruncated"}
_TRUNCATED |= {"trunc", "timelimit", "timelimits"}
_DONE = {"done", "dones", "donesfloat", "last", "episodeend", "episodeends", "doneflag", "doneflags"}
_DONE |= {"end", "ends", "ended"}
_FIRST = {"first", "episodestart", "episodestarts"}
# Columns with these names are 0 where the task ended the episode.
_INVERTED = {"mask", "masks", "discount", "discounts", "continue", "continues", "nonterminal", "nonterminals"}
# dm_env: 0 at the first step of an episode, 2 at its last one, and 1 between them.
_STEP_TYPE = {"steptype", "steptypes"}
_STEP_TYPE_FIRST = 0
_STEP_TYPE_LAST = 2
# Columns with these names are flags only if they hold one number per step, and values of a flag: usually 0 and 1.
_AMBIGUOUS = {"last", "first", "end", "ends", "ended", "term", "trunc", "timelimit", "timelimits", "absorbing"}
_AMBIGUOUS |= _INVERTED | _STEP_TYPE
# Any other column that holds only 0 and 1 and has one of these words in its name is probably a flag, too.
_SUSPICIOUS = re.compile(
    r"(?:^|[^a-z])(?:dones?|termina\w*|truncat\w*|time_?outs?|finished|ended|absorbing|time_?limits?|(?:game|episode)_over|end_of_episode)(?:$|[^a-z])"
)

TERMINATED = "terminated"
TRUNCATED = "truncated"
DONE = "done"
FIRST = "first"


def flag_kind(name: str) -> str | None:
    """Return which flag a column with this name holds: terminated, truncated, done or first; None if it is no flag.

    ``done`` is the flag of programs that do not tell termination from truncation; ``first`` marks an episode's first
    step.
    """
    plain = _plain(name)
    kinds = {
        TERMINATED: _TERMINATED | _INVERTED,
        TRUNCATED: _TRUNCATED,
        DONE: _DONE | _STEP_TYPE,
        FIRST: _FIRST,
    }
    return next((kind for kind, names in kinds.items() if plain in names), None)


def is_ambiguous(name: str) -> bool:
    """Return True if columns with this name may also be something else than a flag, which their values tell."""
    return _plain(name) in _AMBIGUOUS


def is_flag(name: str, values: ArrayLike) -> bool:
    """Return True if a column is a flag of episode ends by its name, and, for ambiguous names, by its values."""
    if flag_kind(name) is None or not is_ambiguous(name):
        return flag_kind(name) is not None
    array = _as_array(values)
    if array.dtype.kind not in "biuf" or (array.ndim and array.size != len(array)):
        return False  # one per action, for example, such as a mask of legal actions
    if _plain(name) in _STEP_TYPE:
        return bool(np.isin(array, (0, 1, 2)).all())
    if _plain(name) in _INVERTED:
        others = np.unique(array[array != 0])
        # A mask is 0 and 1. A discount is usually one number, and 0 at an end; it may also change from step to step.
        is_mask = len(others) <= 1 or ("discount" in _plain(name) and bool((array == 0).any()))
        return array.ndim > 0 and is_mask and bool((others > 0).all())
    return _is_boolean(array)


def end_marks(name: str, values: ArrayLike) -> np.ndarray:
    """Return a column that `is_flag` as a flag that is set at ends, or, for a flag of first steps, at beginnings."""
    array = _as_array(values)
    if _plain(name) in _STEP_TYPE:
        return array == _STEP_TYPE_LAST
    return array == 0 if _plain(name) in _INVERTED else array


def read_end_flags(columns: Mapping[str, ArrayLike], num_steps: int, *, where: object) -> tuple[bool, bool]:
    """Return whether an episode was terminated, and whether it was truncated.

    Args:
        columns: The flags by name, each a bool or one per step; see `flag_kind`.
        num_steps: Length of the episode.
        where: The episode, for messages.

    Raises:
        RLTransformerError: A flag is not boolean, has another length, or is set inside of the episode; or two names of
            the same flag contradict each other.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for name, values in columns.items():
        kind = str(flag_kind(name))
        if kind == FIRST:
            _check_first(values, num_steps, where=f"{where}: {name}")
            continue
        inner = inner_end(name, values) if is_ambiguous(name) else None
        if inner is not None:
            what = "is 0" if _plain(name) in _INVERTED else "is set"
            raise RLTransformerError(
                f"{what} at step {inner} of {num_steps}: an episode seems to end or begin there, inside this one",
                where=f"{where}: {name}",
                fix="cut the recording there, and give every episode on its own, with terminated or truncated; if it is not a flag of episode ends, give it another name",
            )
        is_set = flag_at_end(
            end_marks(name, values) if is_ambiguous(name) else values, num_steps, where=f"{where}: {name}"
        )
        earlier, before = seen.setdefault(kind, (name, is_set))
        if before != is_set:
            raise RLTransformerError(
                f"{earlier} is {before} and {name} is {is_set} at the end, and both are names of the same flag",
                where=where,
                fix=f"give only one of them, called {kind if kind != DONE else 'terminated or truncated'}",
            )
    terminated = seen.get(TERMINATED, ("", False))[1]
    truncated = seen.get(TRUNCATED, ("", False))[1]
    # Without a word about truncation, "done" is what gym called the end of the task. Beside another flag, it only
    # repeats what that flag says, or says that the episode ended in the other way.
    if seen.get(DONE, ("", False))[1] and not (terminated or truncated):
        terminated = TERMINATED not in seen
        truncated = not terminated
    return terminated, truncated


def refuse_unknown_flags(columns: Mapping[str, np.ndarray], *, where: object) -> None:
    """Raise an error for further columns that seem to be flags under a name that is not known.

    Raises:
        RLTransformerError: A column has "done" or a similar word in its name, and holds only 0 and 1.
    """
    # Taken as an ordinary column, an unknown flag would join all episodes of a recording into one, without notice.
    for name, values in columns.items():
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        if _SUSPICIOUS.search(words) and values.ndim <= 1 and _is_boolean(values):
            raise RLTransformerError(
                f"{name!r} looks like a flag of episode ends, but is not a known one",
                where=where,
                fix="call it terminated if the task ended the episode, or truncated if a time limit did; "
                "if it is something else, give it a name without these words",
            )


def inner_end(name: str, values: ArrayLike) -> int | None:
    """Return the first step inside of an episode at which the flag ``name`` says that an episode ends or begins.

    Args:
        name: Name of a column.
        values: (T,) or (T, 1) values of one episode.

    Returns:
        The step; None if there is none, or if the column holds no flag.
    """
    if not is_flag(name, values):
        return None
    array = _as_array(values)
    marks = end_marks(name, array)
    if not array.ndim or marks.size != len(marks) or not _is_boolean(marks):
        return None
    ends = marks.reshape(-1).astype(bool)[:-1]
    if flag_kind(name) == FIRST:
        ends = marks.reshape(-1).astype(bool)[1:]
    elif _plain(name) in _STEP_TYPE:
        ends = ends | (array.reshape(-1)[1:] == _STEP_TYPE_FIRST)
    inner = np.flatnonzero(ends)
    return int(inner[0]) + (flag_kind(name) == FIRST) if inner.size else None


def flag_at_end(flag: ArrayLike, num_steps: int, *, where: object) -> bool:
    """Return True if the flag is set at the end of an episode.

    Args:
        flag: A bool, or one per step, of which only the last may be True.
        num_steps: Length of the episode.
        where: The flag, for messages.

    Raises:
        RLTransformerError: The flag is not boolean, has another length, or is set before the last step.
    """
    flags = _flags(flag, num_steps, where)
    # A flag in the middle means that several episodes were recorded as one. Returns-to-go summed across the border
    # would be wrong, and the policy would see the jump between episodes as a transition.
    if flags[:-1].any():
        problem = f"is set at step {int(np.flatnonzero(flags)[0])} of {num_steps}: the episode goes on after its end"
        raise RLTransformerError(
            problem, where=where, fix="cut the recording at these flags, and give every episode on its own"
        )
    return bool(flags[-1]) if flags.size else False


def _check_first(flag: ArrayLike, num_steps: int, *, where: object) -> None:
    """Raise an error if a flag of first steps is set after the first step."""
    flags = _flags(flag, num_steps, where)
    if flags[1:].any():
        problem = f"is set at step {int(np.flatnonzero(flags[1:])[0]) + 1} of {num_steps}: another episode begins there"
        raise RLTransformerError(problem, where=where, fix="cut the recording there, and give every episode on its own")


def _flags(flag: ArrayLike, num_steps: int, where: object) -> np.ndarray:
    """Return a flag as a one-dimensional boolean array: one element, or one per step."""
    array = _as_array(flag)
    # HDF5 files store flags as integers or floats as well, so 0 and 1 of any numeric type are accepted.
    if not _is_boolean(array):
        raise RLTransformerError(f"is {flag!r:.100}", where=where, fix="give True or False, or one of them per step")
    flags = array.astype(bool).reshape(-1)
    if array.ndim and len(flags) != num_steps:
        raise RLTransformerError(
            f"has {len(flags)} flags for {num_steps} steps", where=where, fix="give one flag per step"
        )
    return flags


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", re.sub(r"^(?:is|next)[_/]?", "", name.lower()))


def _as_array(values: ArrayLike) -> np.ndarray:
    """Return values as an array; those that were collected as Python objects, as in tables, get the type of bool."""
    array = np.asarray(values)
    if array.dtype == object and array.size and all(isinstance(value, bool | np.bool_) for value in array.flat):
        return array.astype(bool)
    return array


def _is_boolean(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
