"""Write the log of an invented shop as Parquet files: visits of customers, and the price that was offered at each.

    python studies/shop_log.py 100000 shop-log

Like real logs, it has no episodes: a customer's visits lie anywhere in it, some arrive late, some are there twice, some
values are missing, and not every price was allowed at every visit. A low price sells more, and less is earned by it.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PRICES = np.array(["low", "middle", "high"])
SEGMENTS = np.array(["new", "regular", "business"])
START = np.datetime64("2026-04-01T00:00:00.000")
ROWS_PER_FILE = 1_000_000


def visits(num_rows: int, first_user: int, random: np.random.Generator) -> pa.Table:
    """Return visits of some customers, about 40 of each, in sessions that begin on random days."""
    num_users = max(1, num_rows // 40)
    user = random.integers(0, num_users, num_rows)
    session_starts = random.integers(0, 60 * 86_400, (num_users, 4))
    seconds = session_starts[user, random.integers(0, 4, num_rows)] + random.integers(0, 1_200, num_rows)
    segment = random.integers(0, 3, num_users)[user]
    basket = random.exponential(1.0, num_rows)
    allowed = random.random((num_rows, 3)) < 0.8
    chosen = random.integers(0, 3, num_rows)
    allowed[np.arange(num_rows), chosen] = True
    buys = random.random(num_rows) < np.array([0.6, 0.4, 0.2])[chosen] * (1 + 0.3 * (segment == 2))
    revenue = buys * basket * np.array([1.0, 2.0, 3.0])[chosen]
    missing = random.random(num_rows) < 0.001
    return pa.table(
        {
            "user_id": first_user + user + 2**53,  # larger than what float64 can tell apart
            "ts": pa.array(START + (1000 * seconds).astype("timedelta64[ms]"), pa.timestamp("ms", "UTC")),
            "f_basket": pa.array(basket, mask=missing),
            "f_hour": (seconds // 3600 % 24).astype(np.int32),
            "segment": pa.array(SEGMENTS[segment]).dictionary_encode(),
            "item": random.integers(0, 5_000, num_rows),
            "price": pa.array(PRICES[chosen]).dictionary_encode(),
            **{f"mask_{price}": allowed[:, i] for i, price in enumerate(PRICES)},
            "revenue": revenue,
            "churned": random.random(num_rows) < 0.005,
        }
    )


def write_log(num_rows: int, folder: Path, seed: int = 0) -> int:
    """Write the log, and return its number of rows, of which one in a thousand is a copy."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    written = 0
    for number, first in enumerate(range(0, num_rows, ROWS_PER_FILE)):
        size = min(ROWS_PER_FILE, num_rows - first)
        rows = visits(size, first, random)
        copies = rows.take(pa.array(random.integers(0, size, size // 1_000)))
        rows = pa.concat_tables([rows, copies])
        rows = rows.take(pa.array(random.permutation(len(rows))))
        pq.write_table(rows, folder / f"visits-{number}.parquet", row_group_size=250_000)
        written += len(rows)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f"wrote {write_log(args.rows, args.folder):,} rows to {args.folder}")
