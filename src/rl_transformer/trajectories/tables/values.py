"""Convert Arrow columns to NumPy arrays, with the rows that cannot be converted."""

from __future__ import annotations

import hashlib
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.table_spec import Value
from rl_transformer.trajectories.tables.arrow import pc

_LARGEST_EXACT = 2**53  # float64 holds every integer up to here
_MOST_CATEGORIES = 2_000_000
_FLAG_FIX = (
    "convert it to true and false, or 1 and 0; in Python, change the column and give the table to "
    "TrajectoryDataset.from_columns"
)
MISSING = "missing value in {}"
INFINITE = "infinite value in {}"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, without a dictionary around them."""
    return kind.value_type if pt.is_dictionary(kind) else kind


def check_number(kind: pa.DataType, name: str, *, where: object) -> None:
    """Raise an error for a column that is not made of numbers.

    Raises:
        RLTransformerError: The message says what to do about this type.
    """
    kind = plain_type(kind)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        check_number(kind.value_type, name, where=where)
        return
    if (
        pt.is_integer(kind)
        or pt.is_floating(kind)
        or pt.is_boolean(kind)
        or pt.is_decimal(kind)
        or pt.is_duration(kind)
    ):
        return
    fix = "leave it out, or convert it to numbers"
    if _is_text(kind):
        fix = (
            f"list it as categorical: --categorical {shlex.quote(name)}; numbers with a decimal comma need a type in the file of "
            f"--mapping, as in types: {{'{name}': decimal_comma}}"
        )
    if pt.is_temporal(kind):
        fix = "give the time since a fixed moment as a number, such as hours since the episode began, or leave it out"
    raise RLTransformerError(f"holds {kind}, not numbers", where=f"{where}: {name}", fix=fix)


def check_category(kind: pa.DataType, name: str, *, where: object) -> None:
    """Raise an error for a column whose values are not names: texts, integers, booleans or other numbers."""
    kind = plain_type(kind)
    if not (
        _is_text(kind) or pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_decimal(kind)
    ):
        raise RLTransformerError(
            f"holds {kind}, whose values are not names",
            where=f"{where}: {name}",
            fix="leave it out, or convert it to text",
        )


def numbers(column: pa.ChunkedArray, width: int, name: str, *, where: object) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as float64 (N, width), and where a value is missing (N,).

    Durations become seconds, booleans 0 and 1. A missing value, which is null or NaN, becomes NaN.

    Raises:
        RLTransformerError: Integers or decimals that float64 cannot hold, or lists of another length.
    """
    column = _decoded(column)
    kind = column.type
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return _lists(column, width, name, where)
    if pt.is_duration(kind):
        per_second = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        column = pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), per_second)
    elif pt.is_int64(kind) or pt.is_uint64(kind) or pt.is_decimal(kind):
        _check_exact(column, name, where)
    values = _to_numpy(column.cast(pa.float64(), safe=False))
    return values.reshape(-1, 1), np.isnan(values)


def list_width(column: pa.ChunkedArray, name: str, *, where: object) -> int:
    """Return how many numbers each row of a column holds; 0 if it is nothing but nulls.

    Raises:
        RLTransformerError: The rows hold different numbers of them, which no vector can.
    """
    kind = plain_type(column.type)
    if pt.is_fixed_size_list(kind):
        return kind.list_size
    if not (pt.is_list(kind) or pt.is_large_list(kind)):
        return 1
    extent = pc.min_max(pc.list_value_length(column)).as_py()
    if extent["min"] != extent["max"]:
        raise RLTransformerError(
            f"holds lists of {extent['min']} to {extent['max']} numbers",
            where=f"{where}: {name}",
            fix="give lists of one length, or leave the column out",
        )
    return extent["min"] or 0


def merge_categories(known: pa.Array | None, column: pa.ChunkedArray, name: str, *, where: object) -> pa.Array:
    """Return the distinct values of a column together with those that were seen before, without nulls.

    Raises:
        RLTransformerError: There are more than two million of them.
    """
    found = pc.drop_null(pc.unique(category_column(column)))
    merged = found if known is None else pc.unique(pa.concat_arrays([known, found]))
    if len(merged) > _MOST_CATEGORIES:
        raise RLTransformerError(
            f"has more than {_MOST_CATEGORIES:,} categories",
            where=f"{where}: {name}",
            fix="leave it out, or group its values",
        )
    return merged


def missing_names(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a column that names or orders rows is null, NaN or infinite: (N,) bool."""
    column = _decoded(column)
    missing = column.is_null()
    if pt.is_floating(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.invert(pc.is_finite(column)), True))
    return _to_numpy(missing).astype(bool)


def category_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of names as texts, int64, float64 or booleans."""
    column = _decoded(column)
    kind = column.type
    if pt.is_decimal(kind):
        return column.cast(pa.string())
    if pt.is_integer(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            raise RLTransformerError(
                "holds unsigned integers beyond 63 bits", where="categorical", fix="convert the column to text"
            ) from None
    if pt.is_floating(kind):
        # By their text: a 0.1 of 32 bits is the category 0.1, which a row that is acted on has as well.
        values = (column if kind == pa.float64() else column.cast(pa.string())).cast(pa.float64())
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    return column.cast(pa.string()) if _is_text(kind) else column


def sorted_values(found: pa.Array) -> tuple[Value, ...]:
    """Return distinct values in their order as plain ones."""
    return tuple(found.take(pc.sort_indices(found)).to_pylist())


def category_indices(column: pa.ChunkedArray, values: tuple[Value, ...]) -> np.ndarray:
    """Return the index of every row's value in ``values``, (N,) int64; -1 for others and for nulls."""
    names = category_column(column)
    try:
        known = pa.array(values, names.type)
    except (pa.ArrowException, TypeError):
        return np.full(len(names), -1)  # the categories are of another type, so none of them occurs
    found = pc.index_in(names, value_set=known, skip_nulls=True)
    return _to_numpy(pc.fill_null(found, -1)).astype(np.int64)


def kept_values(column: pa.ChunkedArray, name: str, *, where: object) -> tuple[np.ndarray, np.ndarray]:
    """Return a column that is kept beside the episodes as numbers (N,), and where a value is missing (N,).

    Times become seconds (since 1970 in UTC for moments), texts the first 63 bits of their SHA-256: the same text is the same
    number in every table. Integers stay exact.

    Raises:
        RLTransformerError: The values are lists, or integers beyond 63 bits.
    """
    column = _decoded(column)
    kind = column.type
    missing = missing_names(column)
    if pt.is_temporal(kind):
        moments, per_second = order_values(column, name, where=where)
        return moments / float(per_second or 1), missing
    if _is_text(kind):
        names = column.combine_chunks().dictionary_encode()
        codes = np.array([_text_code(text) for text in names.dictionary.to_pylist()] + [0], np.int64)
        return codes[_to_numpy(pc.fill_null(names.indices, -1))], missing
    if pt.is_boolean(kind) or pt.is_integer(kind):
        try:
            return _to_numpy(pc.fill_null(column.cast(pa.int64()), 0)), missing
        except pa.ArrowInvalid:
            problem, fix = "holds unsigned integers beyond 63 bits", "convert the column to text"
            raise RLTransformerError(problem, where=f"{where}: {name}", fix=fix) from None
    if pt.is_floating(kind) or pt.is_decimal(kind):
        return _to_numpy(column.cast(pa.float64(), safe=False)), missing
    raise RLTransformerError(
        f"holds {kind}, which cannot be kept", where=f"{where}: {name}", fix="keep numbers, times or texts"
    )


def _text_code(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def flags(column: pa.ChunkedArray, name: str, *, where: object) -> np.ndarray:
    """Return a column of true and false, or of 1 and 0, as booleans (N,); null is false.

    Raises:
        RLTransformerError: The column holds anything else.
    """
    column = _decoded(column)
    kind = column.type
    # Of numbers and flags only: Arrow would parse bytes, which is what it takes texts for that are not UTF-8.
    if not any(is_kind(kind) for is_kind in (pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_null)):
        problem = f"holds {column.type}, not true and false"
        raise RLTransformerError(problem, where=f"{where}: {name}", fix=_FLAG_FIX)
    values = _to_numpy(pc.fill_null(column.cast(pa.float64(), safe=False), 0.0))
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        problem = f"holds {values[wrong][0]:g}, and not only 1 and 0"
        raise RLTransformerError(problem, where=f"{where}: {name}", fix=_FLAG_FIX)
    return values == 1


def order_values(column: pa.ChunkedArray, name: str, *, where: object) -> tuple[np.ndarray, float | None]:
    """Return the column that orders the rows as numbers (N,), and how many of them are a second; None for no time.

    Raises:
        RLTransformerError: Its values have no distances, such as texts.
    """
    kind = column.type
    units = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
    if pt.is_timestamp(kind) or pt.is_duration(kind) or pt.is_time(kind):
        wide = column.cast(pa.int32()).cast(pa.int64()) if pt.is_time32(kind) else column.cast(pa.int64())
        return _to_numpy(wide), units[kind.unit]
    if pt.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        return _to_numpy(days), 1 / 86400
    if pt.is_integer(kind):
        return _to_numpy(column.cast(pa.int64())), None
    if pt.is_floating(kind) or pt.is_decimal(kind):
        return _to_numpy(column.cast(pa.float64())), None
    problem = f"holds {kind}, which has no distances"
    fix = "order the rows by a time or a number; texts such as 2026-06-01 are read as times where the format has them"
    raise RLTransformerError(problem, where=f"{where}: {name}", fix=fix)


def _lists(column: pa.ChunkedArray, width: int, name: str, where: object) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of lists as float64 (N, width), and where a list or a number in it is missing (N,)."""
    missing = _to_numpy(pc.is_null(column))
    if list_width(column, name, where=where) not in (0, width):
        problem = f"holds lists of {list_width(column, name, where=where)} numbers after lists of {width}"
        raise RLTransformerError(problem, where=f"{where}: {name}", fix="give lists of one length")
    result = np.full((len(column), width), np.nan)
    # Slices and nulls of a list array do not show in its values, which `flatten` takes care of.
    flat = pc.list_flatten(pc.drop_null(column))
    result[~missing] = numbers(
        flat if isinstance(flat, pa.ChunkedArray) else pa.chunked_array([flat]), 1, name, where=where
    )[0].reshape(-1, width)
    return result, np.asarray(np.isnan(result).any(axis=1))


def _check_exact(column: pa.ChunkedArray, name: str, where: object) -> None:
    extent = pc.min_max(column).as_py()
    largest = max(abs(extent["min"] or 0), abs(extent["max"] or 0))
    if largest > _LARGEST_EXACT:
        raise RLTransformerError(
            f"holds numbers as large as {largest}, which a number with 53 bits cannot tell apart",
            where=f"{where}: {name}",
            fix=f"if they are ids, list the column as categorical (--categorical {name}); otherwise subtract a fixed number",
        )


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column, pa.Array):
        column = pa.chunked_array([column])
    return column.cast(column.type.value_type) if pt.is_dictionary(column.type) else column


def _to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column as an array; nulls of floating-point numbers become NaN."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column.to_numpy(zero_copy_only=False)


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or str(kind) == "string_view"
