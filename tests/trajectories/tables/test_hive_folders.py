"""Claims about tables in folders named after values, and about paths that name a file system."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from rl_transformer import TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.readers.tables import ParquetReader
from rl_transformer.trajectories.tables.convert import convert_table
from rl_transformer.trajectories.tables.mapping import ColumnMapping

MAPPING = {
    "episode": "user,segment", "order": "step", "observe": "x,level", "categorical": "segment", "action": "a", "reward": "r",
}  # fmt: skip


def visits() -> pa.Table:
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(20), 10)
    columns = {"user": user, "segment": np.array(["new", "old"])[user % 2], "level": (user % 3).astype(np.int32)}
    values = {"x": random.normal(size=200), "a": random.integers(0, 3, 200), "r": random.normal(size=200)}
    return pa.table({**columns, "step": np.tile(np.arange(10), 20), **values})


def test_values_in_the_names_of_folders_are_columns(tmp_path):
    table = visits()
    ds.write_dataset(
        table, tmp_path / "log", format="parquet", partitioning=["segment", "level"], partitioning_flavor="hive"
    )
    assert (tmp_path / "log" / "segment=new" / "level=1").is_dir()
    memory = TrajectoryDataset.from_columns(table, **MAPPING)
    mapping = ColumnMapping.from_values(MAPPING, where="test")
    for number, path in enumerate((str(tmp_path / "log"), (tmp_path / "log").as_uri())):
        account = convert_table(ParquetReader().table(path, {}), mapping, tmp_path / f"store-{number}", source="log")
        stored = open_trajectories(f"rlt:{account['store']}")
        assert account["rows_dropped"] == {}
        assert stored.fingerprint == memory.fingerprint
        assert stored.spec.table is not None
        assert dict(stored.spec.table.categories) == {"segment": ("new", "old")}
        assert dict(stored.spec.table.numbers) == {"x": 1, "level": 1}
