"""Read the plain values in pickled files of Python without importing or calling anything that they name.

Such a file is a program for a small stack machine, whose instructions may name any function to be called. Here, an
interpreter of our own runs the few instructions that build lists, dicts, tuples, texts, bytes and numbers. Of names, it
knows those with which NumPy and Python write arrays and bytes; each stands for a function below, and never for what it names.
The standard library's `pickletools` splits a file into instructions and runs none of them.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from pathlib import Path

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.reading import read_bytes
from rl_transformer.trajectories.readers.pickled_arrays import GLOBALS, ForeignError, Global, Room, Unfinished

_COPY = "copy or download the file again"
SCRIPT = (
    "convert it with a script of your own in a place that you trust: "
    "rlt.TrajectoryDataset.from_episodes(episodes).save(FOLDER)"
)
"""What to do about a file that holds more than plain values."""
_HIGHEST_PROTOCOL = 5
_FRAME_HEADER = 9  # bytes of a FRAME instruction


def read_pickled(path: Path) -> object:
    """Return the value in a file: dicts with texts as keys, lists, tuples, texts, bytes, numbers, and numeric arrays.

    Arrays are views of the file's bytes, and read-only.

    Raises:
        RLTransformerError: The file is missing or damaged, names anything else, or builds more than it holds.
    """
    content = read_bytes(path, fix="check the path")
    machine = _Machine(content)
    position = 0
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(content)):
            position = int(at or 0)
            machine.check_sizes(count)
            machine.run(opcode.name, argument, position)
        machine.check_end(position + 1)
    except ForeignError as error:
        raise RLTransformerError(f"byte {position}: {error}", where=path, fix=SCRIPT) from None
    except (ValueError, OverflowError, struct.error) as error:
        # Errors of pickletools quote bytes of the file at any length.
        problem = f"cannot be read as a pickled file: after byte {position}: {' '.join(str(error).split())[:200]}"
        raise RLTransformerError(problem, where=path, fix=_COPY) from None
    return machine.result


class _Machine:
    """Runs instructions on a stack. Below, "marked" are the values above the last mark on the stack."""

    def __init__(self, content: bytes) -> None:
        self.result: object = None
        self._size = len(content)
        self._room = Room(4 * len(content))
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def check_sizes(self, count: int) -> None:
        """Raise `ForeignError` if too many instructions ran, or too many values wait on the stack."""
        waiting = len(self._stack) + len(self._marks)
        for name, value in (("pickled_instructions", count), ("pickled_stack", waiting)):
            if value > LIMITS[name].most:
                raise ForeignError(f"has more than {LIMITS[name].most:,} {LIMITS[name].what}")

    def check_end(self, end: int) -> None:
        """Raise `ForeignError` if something follows the last instruction."""
        if end < self._size:
            raise ForeignError(f"{self._size - end} bytes follow its end: it holds more than one object")

    def run(self, name: str, argument: object, position: int) -> None:
        """Run one instruction.

        Raises:
            ForeignError: It is none of those that plain values need.
            ValueError: The file is damaged.
        """
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _FIXED_TUPLES:
            items = [self._pop() for _ in range(_FIXED_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name == "FRAME":
            left = self._size - position - _FRAME_HEADER
            if not isinstance(argument, int) or argument > left:
                raise ValueError(f"declares {argument} bytes, and {left} are left")
        elif name == "PROTO":
            if not isinstance(argument, int) or argument > _HIGHEST_PROTOCOL:
                raise ValueError(f"has protocol {argument}; those from 0 to {_HIGHEST_PROTOCOL} are read")
        else:
            raise ForeignError(f"has the instruction {name}, which no plain value needs")

    def _pop(self) -> object:
        self._top()
        return self._stack.pop()

    def _top(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("takes a value from an empty stack")
        return self._stack[-1]

    def _pop_marked(self) -> list[object]:
        if not self._marks:
            raise ValueError("has no mark on the stack")
        start = self._marks.pop()
        marked = self._stack[start:]
        del self._stack[start:]
        return marked

    def _mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def _drop(self, _: object) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def _drop_marked(self, _: object) -> None:
        self._pop_marked()

    def _repeat(self, _: object) -> None:
        self._stack.append(self._top())

    def _new_list(self, _: object) -> None:
        self._stack.append(self._pop_marked())

    def _new_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._pop_marked()))

    def _new_dict(self, _: object) -> None:
        items = self._pop_marked()
        self._stack.append({})
        self._set(items)

    def _append(self, _: object) -> None:
        self._extend([self._pop()])

    def _append_marked(self, _: object) -> None:
        self._extend(self._pop_marked())

    def _extend(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ForeignError(f"appends to a value of type {type(target).__name__}")
        target.extend(items)

    def _set_one(self, _: object) -> None:
        value = self._pop()
        self._set([self._pop(), value])

    def _set_marked(self, _: object) -> None:
        self._set(self._pop_marked())

    def _set(self, items: list[object]) -> None:
        target = self._top()
        if type(target) is not dict:
            raise ForeignError(f"sets items of a value of type {type(target).__name__}")
        if len(items) % 2:
            raise ValueError("sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only texts: hashing a tuple calls itself for every level, so that a deep one ends the process.
            if type(key) is not str:
                raise ForeignError(f"has a dict with a key of type {type(key).__name__}")
            target[key] = value

    def _memo_get(self, argument: object) -> None:
        if not isinstance(argument, int) or argument not in self._memo:
            raise ValueError(f"uses the memo {argument}, which was not set")
        self._stack.append(self._memo[argument])

    def _memo_put(self, argument: object) -> None:
        value = self._top()
        index = argument if isinstance(argument, int) else len(self._memo)
        self._memo[index] = value
        if isinstance(value, Unfinished):
            value.memos.append(index)

    def _global(self, argument: object) -> None:
        if isinstance(argument, str):
            module, _, name = argument.partition(" ")
        else:
            name = self._pop()
            module = self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("names a global by a value that is not text")
        if (module, name) not in GLOBALS:
            shown = f"{module[:100]}.{name[:100]}".encode("unicode_escape").decode()
            raise ForeignError(f"names the global {shown}, and nothing that a file names is imported or called")
        self._stack.append(GLOBALS[module, name])

    def _reduce(self, _: object) -> None:
        arguments = self._pop()
        called = self._pop()
        if not isinstance(called, Global) or type(arguments) is not tuple:
            raise ForeignError(f"calls a value of type {type(called).__name__}")
        self._stack.append(called.build(arguments, self._room))

    def _build(self, _: object) -> None:
        state = self._pop()
        target = self._pop()
        if not isinstance(target, Unfinished) or type(state) is not tuple:
            raise ForeignError(f"sets the state of a value of type {type(target).__name__}")
        value = target.finish(state, self._room)
        self._stack.append(value)
        # Files keep an array in the memo before it has its values.
        for index in target.memos:
            if self._memo.get(index) is target:
                self._memo[index] = value
        target.memos.clear()

    def _stop(self, _: object) -> None:
        self.result = self._pop()
        if self._stack or self._marks:
            raise ValueError("ends while values wait on the stack")


_VALUES = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine, object], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_marked,
    "DUP": _Machine._repeat,
    "LIST": _Machine._new_list,
    "TUPLE": _Machine._new_tuple,
    "DICT": _Machine._new_dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._append_marked,
    "SETITEM": _Machine._set_one,
    "SETITEMS": _Machine._set_marked,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._memo_get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._memo_put),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "STOP": _Machine._stop,
}
