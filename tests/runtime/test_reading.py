"""Claims about files of others: regular files within limits, plain values only, and a message of one kind for all else."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from rl_transformer import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.reading import check_format, check_limit, parse_tensors, read_bytes, read_json, read_yaml


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "options.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 010", 10), ("a: 0o10", 8), ("a: 0x1F", 31), ("a: 1e-4", 1e-4), ("a: 1E5", 1e5), ("a: -.5", -0.5), ("a: +3", 3),
        ("a: 1:30", "1:30"), ("a: no", "no"), ("a: on", "on"), ("a: true", True), ("a: False", False), ("a: ~", None),
        ("a:", None), ("a: null", None), ("a: 2026-11-26", "2026-11-26"), ("a: 1_000", "1_000"), ('a: "010"', "010"),
        ("a: 'true'", "true"), ("a: [1, [2, {b: 3}]]", [1, [2, {"b": 3}]]), ("a: {b: {c: []}}", {"b": {"c": []}}),
        ("a: |\n  two\n  lines", "two\nlines"), ('{"a": {"b": null}}', {"b": None}),
    ],
)  # fmt: skip
def test_yaml_is_that_of_version_1_2(text, value, yaml_file):
    found = read_yaml(yaml_file(text), fix="")["a"]
    assert found == value
    assert type(found) is type(value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4))
def test_json_is_read_as_yaml_to_the_same_values(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(values))
    assert read_yaml(path, fix="") == values == read_json(path, fix="")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: the key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "'b' is given twice"),
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("a: &x [*x]", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]", "the tag"),
        ("a: !!int 3", "the tag"),
        ("[1]", "does not hold a mapping"),
        ("null", "does not hold a mapping"),
        ("text", "does not hold a mapping"),
        ("", "does not hold a mapping"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("? [1]\n: 2", "is not a name"),
        ("a: {: ", "cannot be read"),
        ("a: " + "[" * 50 + "]" * 50, "nested lists and mappings"),
        ("a: [" + "1, " * 30_000 + "]", "values in a YAML file"),
        ("a: " + "9" * 5_000, "5,000 digits"),
        ("a: " + "x" * 2**21, "bytes of a YAML file"),
        (b"a: \xff\xfe", "is not text"),
        ("a: \x07", "cannot be read"),
    ],
)
def test_other_yaml_is_refused_by_what_is_wrong(text, message, yaml_file):
    with pytest.raises(RLTransformerError, match=message) as caught:
        read_yaml(yaml_file(text), fix="the fix")
    assert caught.value.fix == "the fix"
    assert str(caught.value.where).endswith("options.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "'a' is given twice"), (b'{"a": NaN}', "NaN is not a JSON number"), (b"[1]", "does not hold a JSON object"),
        (b'{"a": -Infinity}', "-Infinity is not"), (b'{"a": ' + b"[" * 10**5, "cannot be read as JSON"), (b"\xff", "cannot be read as JSON"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "5,000 digits"), (b"", "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_other_json_is_refused_by_what_is_wrong(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RLTransformerError, match=message):
        read_json(tmp_path / "a.json", fix="")


BOMBS = {
    "deep yaml": ("a.yaml", b"a: " + b"[" * 10**5),
    "deep json": ("a.json", b'{"a":' * 10**6),
    "aliases": ("a.yaml", b"a: &a [x,x,x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 120))),
    "keys": ("a.yaml", b"".join(b"k%d: 1\n" % i for i in range(200_000))),
    "flow keys": ("a.yaml", b"{" + b"a: {" * 10**5),
    "digits": ("a.yaml", b"a: " + b"9" * 10**6),
    "large json": ("a.json", b" " * (LIMITS["json_bytes"].most + 1)),
    "header": ("a.safetensors", (2**40).to_bytes(8, "little") + b"{}"),
    "declared": ("a.safetensors", (lambda h: len(h).to_bytes(8, "little") + h)(
        json.dumps({"w": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_is_refused_within_seconds_and_little_memory(name, tmp_path):
    file, content = BOMBS[name]
    (tmp_path / file).write_bytes(content)
    code = (
        "import resource, sys, time\nfrom pathlib import Path\nimport torch, yaml, safetensors.torch\n"
        "from rl_transformer import RLTransformerError\nfrom rl_transformer.runtime import reading\n"
        "path = Path(sys.argv[1])\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbegan = time.monotonic()\n"
        "try:\n"
        "    if path.suffix == '.yaml': reading.read_yaml(path, fix='')\n"
        "    elif path.suffix == '.json': reading.read_json(path, fix='')\n"
        "    else: reading.parse_tensors(reading.read_bytes(path, fix=''), where=path, fix='')\n"
        "except RLTransformerError:\n"
        "    print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / file)], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr[-300:]
    seconds, kibibytes = map(float, result.stdout.split())
    assert seconds < 10  # two on a quiet machine
    assert kibibytes < 512 * 1024


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    for read in (read_json, read_yaml, read_bytes):
        with pytest.raises(RLTransformerError, match="is not a regular file"):
            read(tmp_path / "pipe", fix="")
    assert time.monotonic() - began < 5
    with pytest.raises(RLTransformerError, match=r"is not a regular file|cannot be read"):
        read_bytes(tmp_path, fix="")


@given(st.data())
def test_a_damaged_tensor_file_is_refused_or_read(data):
    """Hashes find changed values; here the format must not crash, whatever is in the file."""
    content = bytearray(save({"w": torch.arange(4.0), "b": torch.zeros(2, 2)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        tensors = parse_tensors(content, where="file", fix="")
    except RLTransformerError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


@pytest.mark.parametrize("shape", [[10**19, 0], [2**63 - 1, 0]])
def test_an_empty_tensor_of_a_size_that_none_can_have_is_refused_or_read(shape):
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    content = len(header).to_bytes(8, "little") + header
    with suppress(RLTransformerError):
        assert parse_tensors(content, where="file", fix="")["w"].numel() == 0


def test_limits_are_documented():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    for limit in LIMITS.values():
        assert f"| {limit.what} | {limit.most:,} |" in page


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_the_largest_number_that_is_read(name):
    most = LIMITS[name].most
    check_limit(name, most, where="file", fix="none")
    with pytest.raises(RLTransformerError, match=f"declares {most + 1:,} "):
        check_limit(name, most + 1, where="file", fix="none")


def test_every_reader_has_its_limit(tmp_path):
    for name, read in {"json": read_json, "yaml": read_yaml}.items():
        path = tmp_path / f"large.{name}"
        with path.open("wb") as file:
            file.truncate(LIMITS[f"{name}_bytes"].most + 1)  # takes no place on the disk
        with pytest.raises(RLTransformerError, match="and the limit is"):
            read(path, fix="none")
    header = (LIMITS["tensor_header_bytes"].most + 1).to_bytes(8, "little")
    with pytest.raises(RLTransformerError, match="bytes of the header of a safetensors file"):
        parse_tensors(header + bytes(LIMITS["tensor_header_bytes"].most), where="file", fix="none")


@pytest.mark.parametrize("version", [True, 1.0, "1", None, 0, -1, 3])
def test_a_format_that_is_not_a_known_number_is_refused(version):
    for known in (1, 2):
        check_format({"format_version": known}, 2, where="file")
    with pytest.raises(RLTransformerError, match="this rl_transformer reads 1 to 2"):
        check_format({"format_version": version}, 2, where="file")
