"""Claims about pickled files: read as Python reads them, and nothing that one names is imported, called or built."""

import builtins
import io
import os
import pickle
import struct
import sys
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from rl_transformer import RLTransformerError
from rl_transformer.runtime.limits import LIMITS, Limit
from rl_transformer.trajectories.readers import pickled_values
from rl_transformer.trajectories.readers.pickled_values import read_pickled

NUMBERS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
VALUES = {
    "rows": NUMBERS,
    "columns": NUMBERS.T,
    "other order": NUMBERS.transpose(1, 0, 2),
    "slice": NUMBERS[:, ::2],
    "single": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "bools": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    **{code: np.arange(3).astype(code) for code in ("i1", "i2", "i8", "u1", "u2", "u4", "u8", "f2", "f8")},
    "numbers of numpy": [np.float64(3), np.int64(-1), np.bool_(True), np.float32(0.1)],
    "plain": [1, -2, 300, 70000, 2.5, float("inf"), True, False, None, 10**30, -(2**40)],
    "text": ["x", "", "\n\\ \x00 é \U0001f600", "long" * 100],
    "bytes": [b"abc", b"", bytes(range(256)), bytearray(b"q"), bytearray()],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), [()])],
    "many": list(range(3000)),
    "dict": {str(i): [i] for i in range(1100)},
    "the same": [NUMBERS, NUMBERS],
}
PROTOCOLS = range(6)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def read(tmp_path, content):
    file = tmp_path / "file.pkl"
    file.write_bytes(content)
    return read_pickled(file)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_that_python_reads(tmp_path, name, protocol):
    content = pickle.dumps(VALUES[name], protocol)
    assert same(read(tmp_path, content), pickle.loads(content))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_pure_python_picklers_write_the_same(tmp_path, protocol):
    file = io.BytesIO()
    pickle._Pickler(file, protocol).dump(VALUES)
    assert same(read(tmp_path, file.getvalue()), pickle.loads(file.getvalue()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_names_of_numpy_1_are_those_of_numpy_2(tmp_path, protocol):
    arrays = [NUMBERS, NUMBERS.T, np.float64(2)]
    content = pickle.dumps(arrays, protocol)
    assert b"numpy._core" in content
    # Texts of protocol 4 and 5 have their length before them, and frames theirs; numpy.core is a byte shorter.
    old = content.replace(b"numpy._core", b"numpy.core")
    if protocol >= 4:
        for module in (b"numpy.core.multiarray", b"numpy.core.numeric"):
            old = old.replace(bytes([len(module) + 1]) + module, bytes([len(module)]) + module)
        old = old[:2] + old[11:]  # without the frame around all of it
    assert same(read(tmp_path, old), arrays)


def test_arrays_of_python_2_are_read_as_python_reads_them_in_latin1(tmp_path):
    content = pickle.dumps(NUMBERS, 2)
    state = b"c_codecs\nencode"
    assert state in content
    raw = NUMBERS.tobytes()
    # Python 2 wrote bytes as its texts.
    old = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03K\x04\x87"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tb."
    )
    assert same(pickle.loads(old, encoding="latin1"), NUMBERS)
    assert same(read(tmp_path, old), NUMBERS)


# Hostile files


class Calls:
    """Is pickled as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


class WithState:
    def __setstate__(self, state):
        raise AssertionError("ran")


def of_numpy(state):
    """Return a file with an array whose state is not what NumPy writes."""
    return pickle.dumps([Calls(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)], 4)


TOUCH = f"open({'canary'!r}, 'w')"
F4 = np.dtype("f4")
HOSTILE = {
    "os.system": (pickle.dumps(Calls(os.system, "touch canary")), "names the global posix.system"),
    "eval": (pickle.dumps(Calls(builtins.eval, TOUCH), 0), "names the global __builtin__.eval"),
    "exec": (pickle.dumps(Calls(builtins.exec, TOUCH), 4), "names the global builtins.exec"),
    "getattr": (
        pickle.dumps(Calls(getattr, "", "join")),
        "builtins.getattr",
    ),
    "nested": (pickle.dumps([{"a": (1, [Calls(os.system, "touch canary")])}]), "names the global posix.system"),
    "never imported": (b"cxml.dom.minicompat\nNodeList\n.", "names the global xml.dom.minicompat.NodeList"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", "names the global numpy.ndarray.dumps"),
    "numpy.load": (b"cnumpy\nload\n(S'canary'\ntR.", "names the global numpy.load"),
    "escape": (b"ca\x1b[31m\nb\n.", r"names the global a\\x1b\[31m\.b"),
    "setstate": (pickle.dumps(WithState().__reduce_ex__(2)[0], 4), "names the global copyreg.__newobj__"),
    "instance": (pickle.dumps(WithState(), 4), "names the global .*WithState"),
    "build": (b"}}b.", "sets the state of a value of type dict"),
    "call of a list": (b"])R.", "calls a value of type list"),
    "call of ndarray": (b"cnumpy\nndarray\n(K\x05tR.", "calls numpy.ndarray"),
    "ndarray as state": (b"cnumpy\nndarray\n}b.", "sets the state of a value of type Global"),
    "inst": (b"(S'touch canary'\nios\nsystem\n.", "has the instruction INST"),
    "obj": (b"(cnumpy\ndtype\nS'f4'\no.", "has the instruction OBJ"),
    "newobj": (b"\x80\x02cnumpy\ndtype\n)\x81.", "has the instruction NEWOBJ"),
    "persistent id": (b"Pid\n.", "has the instruction PERSID"),
    "binary persistent id": (b"K\x01Q.", "has the instruction BINPERSID"),
    "extension code": (b"\x82\x01.", "has the instruction EXT1"),
    "long extension code": (b"\x84\x01\x00\x00\x00.", "has the instruction EXT4"),
    "buffer elsewhere": (b"\x80\x05\x97.", "has the instruction NEXT_BUFFER"),
    "set": (pickle.dumps({1, 2}, 4), "has the instruction EMPTY_SET"),
    "objects": (pickle.dumps(np.array([{}, None]), 4), "the type 'O8'"),
    "texts": (pickle.dumps(np.array(["a"]), 4), "the type 'U1'"),
    "complex": (pickle.dumps(np.array([1j]), 4), "the type 'c16'"),
    "structure": (pickle.dumps(np.zeros(2, [("a", "f4")]), 4), "the type 'V4'"),
    "times": (pickle.dumps(np.array(["2020"], "M8[D]"), 4), "the type 'M8'"),
    "subclass": (pickle.dumps(np.ma.array([1.0]), 2), "names the global numpy.ma"),
    "list of values": (of_numpy((1, (1,), F4, False, [WithState])), "names the global"),
    "values in a list": (of_numpy((1, (1,), F4, False, [1.0])), "whose values are a list"),
    "tuple as key": (pickle.dumps({(1, 2): 3}), "a key of type tuple"),
    "append to an array": (pickle.dumps(NUMBERS, 4)[:-1] + b"K\x01a.", "appends to a value of type ndarray"),
    "other encoding": (
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        "encodes a text in another way",
    ),
    "two objects": (pickle.dumps([]) * 2, "follow its end: it holds more than one object"),
}


@pytest.fixture
def watched():
    """The names of events of the interpreter that would be an import, a call of code, or a program."""
    events = []
    state = {"on": False}

    def hook(event, arguments):
        if state["on"] and event.split(".")[0] in ("import", "exec", "compile", "os", "subprocess", "pickle"):
            events.append((event, arguments))

    sys.addaudithook(hook)  # hooks stay for ever, hence the switch
    yield state, events
    state["on"] = False


def test_hostile_files_import_call_and_open_nothing(tmp_path, monkeypatch, watched):
    monkeypatch.chdir(tmp_path)
    state, events = watched
    read(tmp_path, pickle.dumps(1))  # what the reader itself needs is imported now
    before = set(sys.modules)
    for name, (content, message) in HOSTILE.items():
        file = tmp_path / "file.pkl"
        file.write_bytes(content)
        state["on"] = True
        try:
            with pytest.raises(RLTransformerError, match=message) as caught:
                read_pickled(file)
        finally:
            state["on"] = False
        assert caught.value.where == str(file), name
        assert "TrajectoryDataset.from_episodes(episodes).save(FOLDER)" in caught.value.fix, name
    assert not events
    assert set(sys.modules) == before
    assert not (tmp_path / "canary").exists()


def test_the_same_files_do_harm_where_python_reads_them(tmp_path, monkeypatch, watched):
    """The test above proves something only if its watch would notice."""
    monkeypatch.chdir(tmp_path)
    state, events = watched
    state["on"] = True
    pickle.loads(HOSTILE["os.system"][0])
    state["on"] = False
    assert (tmp_path / "canary").exists()
    assert {event for event, _ in events} >= {"pickle.find_class", "os.system"}


def memo_bomb(depth):
    """Return lists that hold ten times the list before them."""
    return b"]q\x000" + b"".join(b"]q%c(" % (i + 1) + b"h%c" % i * 10 + b"e0" for i in range(depth)) + b"h%c." % depth


BIG = b"x" * 100_000
ARRAY = b"cnumpy.core.numeric\n_frombuffer\nq\x01" + b"B" + struct.pack("<I", len(BIG)) + BIG + b"q\x02"
TYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x03"
USED = b"h\x01(h\x02h\x03J" + struct.pack("<i", len(BIG)) + b"\x85X\x01\x00\x00\x00CtR"
BOMBS = {
    "frame of 4 GiB": (b"\x80\x04\x95" + struct.pack("<Q", 2**32) + b"N.", "declares 4294967296 bytes, and 2 are left"),
    "bytes of 4 GiB": (b"\x80\x04\x8e" + struct.pack("<Q", 2**32) + b"N.", "only 2 remain"),
    "bytes of 8 EiB": (b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"N.", "only 2 remain"),
    "text of 4 GiB": (b"\x80\x04\x8d" + struct.pack("<Q", 2**32) + b"N.", "only 2 remain"),
    "integer of 2 GiB": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.", "not enough data"),
    "integer of negative size": (b"\x80\x02\x8b" + struct.pack("<i", -1) + b"\x01.", "count < 0"),
    "decimal digits": (b"L" + b"9" * 100_000 + b"L\n.", "limit"),
    "array of 4 TiB": (of_numpy((1, (2**40,), F4, False, b"\0" * 4)), "needs 4398046511104 bytes, and 4 are there"),
    "array of no size": (of_numpy((1, (2**62, 2**62, 0), F4, False, b"")), "shape is malformed"),
    "negative shape": (of_numpy((1, (-1,), F4, False, b"\0" * 4)), "shape is malformed"),
    "array many times": (ARRAY + TYPE + USED * 100 + b".", "used many times"),
    "text many times": (
        b"c_codecs\nencode\nq\x01(X"
        + struct.pack("<I", len(BIG))
        + BIG
        + b"X\x06\x00\x00\x00latin1tq\x02"
        + b"h\x01h\x02R" * 100
        + b".",
        "used many times",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_declares_is_compared_with_its_bytes_before_it_is_built(tmp_path, name):
    tracemalloc.start()
    try:
        content, message = BOMBS[name]
        with pytest.raises(RLTransformerError, match=rf"file\.pkl: .*{message}"):
            read(tmp_path, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_lists_in_lists_stay_small(tmp_path):
    """A billion values that are one list ten times, ten times, and so on, are a few lists."""
    tracemalloc.start()
    read(tmp_path, memo_bomb(9))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"]q\x00h\x00a.", b"(" * 1000 + b"t" * 1000 + b".", b"]" + b"\x85" * 200_000 + b"."]
)
def test_depth_and_circles_end_nothing(tmp_path, content):
    read(tmp_path, content)


@pytest.mark.parametrize(
    ("limit", "content"),
    [("pickled_instructions", b"N0" * 60 + b"N."), ("pickled_stack", b"]" * 120 + b"."), ("pickled_stack", b"(" * 120)],
)
def test_instructions_and_the_stack_are_limited(tmp_path, monkeypatch, limit, content):
    monkeypatch.setitem(pickled_values.LIMITS, limit, Limit(100, LIMITS[limit].what))
    with pytest.raises(RLTransformerError, match=f"has more than 100 {LIMITS[limit].what}"):
        read(tmp_path, content)


def test_damaged_files_are_refused_by_name(tmp_path):
    """Cut anywhere, or with any byte changed, a file is read as something or refused, and raises nothing else."""
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps([{"a": NUMBERS, "b": [1.5, "x", np.float64(3), True, b"q"]}], protocol)
        for end in range(0, len(content), 3):
            with pytest.raises(RLTransformerError, match=r"file\.pkl: "):
                read(tmp_path, content[:end])
        random = np.random.default_rng(protocol)
        for place in random.integers(0, len(content), 300):
            changed = bytearray(content)
            changed[place] = random.integers(0, 256)
            with suppress(RLTransformerError):
                read(tmp_path, bytes(changed))


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04rest", b"text\n", b".", b"t.", b"g5\n.", b"]]."]
)
def test_other_files_are_refused_by_name(tmp_path, content):
    with pytest.raises(RLTransformerError, match=r"file\.pkl: ") as caught:
        read(tmp_path, content)
    assert caught.value.fix


def test_bools_are_zero_or_one(tmp_path):
    content = pickle.dumps(np.array([True, False]), 4)
    assert content.count(b"C\x02\x01\x00") == 1
    with pytest.raises(RLTransformerError, match="an array of bool with other values"):
        read(tmp_path, content.replace(b"C\x02\x01\x00", b"C\x02\x02\x00"))
