"""Read files that anybody may have written: regular files only, within limits, and without building more than plain values."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_transformer.errors import RLTransformerError
from rl_transformer.runtime.limits import LIMITS
from rl_transformer.runtime.types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from torch import Tensor

_REGULAR_FIX = "name a regular file; of a pipe or device, make a copy first"
# Scalars of YAML 1.2's core schema. YAML 1.1, which PyYAML reads, takes 010 for 8, 1:30 for 90 and no for false.
_YAML_INTEGER = re.compile(r"[-+]?[0-9]+")
_YAML_OTHER_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_YAML_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_YAML_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_bytes(path: Path, *, fix: str, limit: str | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: A file.
        fix: Advice for the error message.
        limit: Name of the limit on its size in `LIMITS`; None: as large as memory.

    Raises:
        RLTransformerError: There is no such file, it is a pipe or device, it is too large, or it cannot be read.
    """
    try:
        # Opened without waiting: a pipe that nobody writes to would wait for ever.
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RLTransformerError("is not a regular file", where=path, fix=_REGULAR_FIX)
            if limit is not None:
                check_limit(limit, status.st_size, where=path, fix=fix)
            return file.read()
    except FileNotFoundError:
        raise RLTransformerError("no such file", where=path, fix=fix) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise RLTransformerError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path, fix=fix
        ) from None


def check_limit(name: str, value: int, *, where: object, fix: str) -> None:
    """Check a declared number against its limit.

    Args:
        name: A name in `LIMITS`.
        value: The declared number.
        where: What declares it, for the message.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The number is above the limit.
    """
    limit = LIMITS[name]
    if value > limit.most:
        raise RLTransformerError(
            f"declares {value:,} {limit.what}, and the limit is {limit.most:,}", where=where, fix=fix
        )


def read_json(path: Path, *, fix: str) -> JsonObject:
    """Return the JSON object in a file.

    Args:
        path: A file.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The file is missing or too large, is not JSON, repeats a key, holds NaN or infinity, or holds
            something other than an object.
    """
    return parse_json(read_bytes(path, fix=fix, limit="json_bytes"), where=path, fix=fix)


def parse_json(content: bytes, *, where: object, fix: str) -> JsonObject:
    """Return the JSON object in bytes; see `read_json`."""
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
        _refuse_half_characters(value)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise RLTransformerError(f"cannot be read as JSON: {error}", where=where, fix=fix) from None
    if not isinstance(value, dict):
        raise RLTransformerError("does not hold a JSON object", where=where, fix=fix)
    return value


def read_yaml(path: Path, *, fix: str) -> JsonObject:
    """Return the mapping in a YAML 1.2 or JSON file: plain values only, without aliases and tags, no key twice.

    Args:
        path: A file.
        fix: Advice for the error message.

    Raises:
        RLTransformerError: The file is missing, too large or too deep, is not YAML, or holds something else.
    """
    import yaml

    content = read_bytes(path, fix=fix, limit="yaml_bytes")
    if content.lstrip().startswith(b"{"):
        # JSON is nearly a part of YAML, but writes characters beyond 16 bits as two, which YAML takes for two characters.
        with suppress(RLTransformerError):
            return parse_json(content, where=path, fix=fix)
    try:
        # Values are built from events and not by PyYAML's constructor, which calls itself for every level, so that deep
        # files end the process, and which copies what aliases name, so that a small file fills the memory.
        value = _build_yaml(yaml.parse(content.decode("utf-8"), Loader=yaml.SafeLoader), path, fix)
        _refuse_half_characters(value)
    except UnicodeError as error:
        raise RLTransformerError(f"is not text: {error}", where=path, fix=fix) from None
    except (yaml.YAMLError, ValueError) as error:
        problem = f"cannot be read: {' '.join(str(error).split())[:300]}"
        raise RLTransformerError(problem, where=path, fix=fix) from None
    if not isinstance(value, dict):
        raise RLTransformerError("does not hold a mapping of names to values", where=path, fix=fix)
    return value


def parse_tensors(content: bytes, *, where: object, fix: str) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file.

    Raises:
        RLTransformerError: The header is too large or malformed, or the bytes are not those that it declares.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header_bytes = int.from_bytes(content[:8], "little")
    check_limit("tensor_header_bytes", min(header_bytes, len(content)), where=where, fix=fix)
    try:
        return load(content)  # it compares all declared sizes with the number of bytes before it builds anything
    # KeyError and AttributeError: unknown dtypes. RuntimeError and TypeError are torch's, for sizes that no tensor can have.
    except (SafetensorError, ValueError, KeyError, AttributeError, RuntimeError, TypeError) as error:
        problem = f"cannot be read as safetensors: {' '.join(str(error).split())[:200]}"
        raise RLTransformerError(problem, where=where, fix=fix) from None


def check_format(values: JsonMapping, version: int, *, where: object) -> None:
    """Check that this version of the package can read a file.

    Args:
        values: Content of the file, with the field ``format_version``.
        version: The newest format that this package reads.
        where: The file, for the message.

    Raises:
        RLTransformerError: The file has a later format, or none.
    """
    format_version = values.get("format_version")
    # bool is a subclass of int, so isinstance() would accept true as version 1.
    if type(format_version) is not int or not 1 <= format_version <= version:
        raise RLTransformerError(
            f"has format_version {format_version!r}, but this rl_transformer reads 1 to {version}",
            where=where,
            fix="use the rl_transformer that wrote it, or a newer one",
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r:.100} is given twice")
    return values


def _integer(text: str) -> int:
    if len(text) > LIMITS["digits"].most:
        raise ValueError(f"a number has {len(text):,} digits, and the limit is {LIMITS['digits'].most:,}")
    return int(text)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _refuse_half_characters(value: object) -> None:
    """Raise a ValueError for an escape of half a character, such as U+D800: it can be neither printed nor written."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def _build_yaml(events: Iterable[Any], path: Path, fix: str) -> Any:
    """Return the value that YAML events describe, without calling itself for nested ones.

    Raises:
        ValueError: An alias, a tag, a repeated key, or a key that is not text.
        RLTransformerError: More values or levels than the limits allow.
    """
    import yaml

    open_values: list[Any] = []
    keys: list[str | None] = []  # of each open mapping, the key that waits for its value
    result: Any = None
    num_documents = 0
    for count, event in enumerate(events):
        check_limit("yaml_values", count, where=path, fix=fix)
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            num_documents += 1
            if num_documents > 1:
                raise ValueError(f"line {line}: a second document begins, and only one is read")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line}: anchors and aliases are not read; write the value out")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise ValueError(f"line {line}: the tag {tag!r:.100} is not read; write a plain value")
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            open_values.pop()
            keys.pop()
            continue
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = {}
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event.value) if event.implicit[0] else event.value
        else:
            continue
        if not open_values:
            result = value
        elif isinstance(open_values[-1], list):
            open_values[-1].append(value)
        elif keys[-1] is None:
            keys[-1] = _key(event, open_values[-1], line)
            continue
        else:
            open_values[-1][keys[-1]] = value
            keys[-1] = None
        if isinstance(value, dict | list) and not isinstance(event, yaml.ScalarEvent):
            open_values.append(value)
            keys.append(None)
            check_limit("yaml_depth", len(open_values), where=path, fix=fix)
    return result


def _key(event: Any, mapping: dict[str, Any], line: int) -> str:
    """Return the key that a scalar event gives; a key is its text, even if it looks like a number."""
    text = getattr(event, "value", None)
    if not isinstance(text, str):
        raise ValueError(f"line {line}: a list or mapping is not a name")
    if text in mapping:
        raise ValueError(f"line {line}: the key {text!r:.100} is given twice")
    return text


def _scalar(text: str) -> Any:
    """Return the value of an unquoted scalar."""
    if text in _YAML_CONSTANTS:
        return _YAML_CONSTANTS[text]
    if _YAML_INTEGER.fullmatch(text):
        return _integer(text)
    if _YAML_OTHER_INTEGER.fullmatch(text):
        return int(text, 0)
    if _YAML_FLOAT.fullmatch(text):
        return float(text)
    return text
