"""Choose the episodes to hold out: those of the last days, or those of some entities."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from rl_transformer.errors import RLTransformerError
from rl_transformer.trajectories.tables.arrow import pc
from rl_transformer.trajectories.tables.encode import Encoded
from rl_transformer.trajectories.tables.mapping import Columns
from rl_transformer.trajectories.tables.values import category_column, order_values

_FORMS = "time:DATE, such as time:2026-06-01, or entity:SHARE, such as entity:0.2"


@dataclass(frozen=True)
class Split:
    """A rule that holds episodes out.

    ``time:DATE`` holds out every episode that has a row at or after the date: what is learned was known before it.
    ``entity:SHARE`` holds out about that share of the values of the first episode column, with all of their episodes.
    """

    columns: Columns
    threshold: float | None = None
    """In the unit of the order column."""
    share: float = 0.0

    @classmethod
    def from_text(cls, text: str, columns: Columns, schema: pa.Schema) -> Split:
        """Return the rule in a text.

        Raises:
            RLTransformerError: It has another form, or the column that it needs is not in the mapping.
        """
        kind, _, value = text.partition(":")
        if kind == "time" and columns.order is not None:
            return cls(columns, threshold=_threshold(value, schema.field(columns.order).type, columns.order))
        if kind == "entity" and columns.episode:
            if not re.fullmatch(r"0?\.\d+", value) or float(value) == 0:
                raise RLTransformerError(
                    f"{value!r} is not a share", where="split", fix="give a number between 0 and 1"
                )
            return cls(columns, share=float(value))
        need = {"time": "an order column", "entity": "an episode column"}.get(kind)
        fix = f"name {need} in the mapping" if need else f"write {_FORMS}"
        raise RLTransformerError(f"{text!r} cannot be applied", where="split", fix=fix)

    def held_out_rows(self, rows: pa.Table) -> np.ndarray:
        """Return the rows (N,) that nothing may be learned from."""
        if self.threshold is None:
            return self._of_entities(rows[self.columns.episode[0]])
        order = str(self.columns.order)
        return order_values(rows[order], order, where="split")[0] >= self.threshold

    def held_out(self, encoded: Encoded) -> np.ndarray:
        """Return the episodes (E,) that are held out."""
        if self.threshold is not None:
            return encoded.last >= self.threshold
        firsts = encoded.rows[self.columns.episode[0]].take(pa.array(encoded.first_rows))
        return self._of_entities(firsts)

    def _of_entities(self, column: pa.ChunkedArray) -> np.ndarray:
        """Return which values (N,) belong to entities that are held out; a hash decides, the same in every run."""
        coded = pc.dictionary_encode(category_column(column)).combine_chunks()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0)
        chosen = [_fraction(value) < self.share for value in coded.dictionary.to_pylist()]
        indices = pc.fill_null(coded.indices, len(chosen)).to_numpy(zero_copy_only=False)
        return np.append(np.array(chosen, bool), False)[indices]


def _fraction(value: object) -> float:
    return int.from_bytes(blake2b(str(value).encode(), digest_size=8).digest(), "big") / 2**64


def _threshold(value: str, kind: pa.DataType, order: str) -> float:
    """Return a date or number of a split in the unit of the order column."""
    try:
        if pt.is_timestamp(kind):
            moment = pa.scalar(np.datetime64(value, kind.unit), pa.timestamp(kind.unit))
            if kind.tz:
                # A date without a time zone is one of the column's own zone.
                moment = pc.assume_timezone(moment, kind.tz)
            return float(moment.cast(pa.int64()).as_py())
        if pt.is_date(kind):
            return float(np.datetime64(value, "D").astype(int))
        return float(value)
    except (ValueError, pa.ArrowException):
        fix = "write a date such as 2026-06-01" if pt.is_temporal(kind) else f"write a number in the unit of {order}"
        raise RLTransformerError(f"{value!r} does not fit the column {order}", where="split", fix=fix) from None
