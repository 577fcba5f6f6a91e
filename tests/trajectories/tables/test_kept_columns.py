"""Claims about columns that are kept beside the episodes: the policy does not see them, and judging finds them again."""

import datetime
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.evaluation.offline.log_columns import entities_of
from rl_transformer.trajectories.splits import OVERLAPPING_TIMES, SHARED_ENTITIES, compare_splits
from tests.trajectories.tables.test_engines import (  # noqa: F401  (fixtures)
    mapping_of,
    other_processes,
    small_buckets,
)
from tests.trajectories.tables.test_table_episodes import MAPPING, random_log

UTC = datetime.UTC


def visits(first_day=1, customers=range(30), hours=6):
    """A few hours of visits of each customer, one customer per day."""
    rows = [
        {
            "customer": f"c{customer}",
            "at": datetime.datetime(2026, 5, 1, hour, tzinfo=UTC) + datetime.timedelta(days=first_day + number),
            "basket": float(number + hour),
            "offer": hour % 3,
            "paid": 1.0,
            "probability": 0.25,
        }
        for number, customer in enumerate(customers)
        for hour in range(hours)
    ]
    return pa.Table.from_pylist(rows)


COLUMNS = {"episode": "customer", "order": "at", "observe": "basket", "action": "offer", "reward": "paid"}


def code(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def test_kept_columns_stand_beside_the_steps_and_change_nothing_else():
    plain = TrajectoryDataset.from_columns(visits(), **COLUMNS)
    kept = TrajectoryDataset.from_columns(visits(), **COLUMNS, keep=["customer", "at", "prob*"])
    assert kept.fingerprint == plain.fingerprint
    assert kept.spec.observation_space == plain.spec.observation_space
    first = kept.trajectory(0).extras
    assert set(first) == {"customer", "at", "probability"}
    assert set(first["customer"].tolist()) == {code("c0")}
    # Seconds since 1970, whatever the unit of the column is.
    assert first["at"][1] == datetime.datetime(2026, 5, 2, 1, tzinfo=UTC).timestamp()
    assert first["probability"].tolist() == [0.25] * 6
    assert len(np.unique(entities_of(kept, ["customer"]))) == 30


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), [code("a"), code("b")]),
        (pa.array([2**62 + 1, 2**62 + 2]), [2**62 + 1, 2**62 + 2]),
        (pa.array([True, False]), [1, 0]),
        (pa.array([0.5, -1.0], pa.float32()), [0.5, -1.0]),
        (pa.array([datetime.date(1970, 1, 2), datetime.date(1970, 1, 3)]), [86400, 2 * 86400]),
        (pa.array([1_500, 2_500], pa.duration("ms")), [1.5, 2.5]),
    ],
)
def test_every_kind_of_value_is_a_number(values, expected):
    table = {"x": np.zeros(2), "a": np.zeros(2, int), "k": values}
    data = TrajectoryDataset.from_columns(table, observe="x", action="a", keep="k")
    assert data.columns["k"].tolist() == expected


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("k", pa.array([[1.0], [2.0]]), "cannot be kept"),
        ("k", pa.array([2**63 + 1, 1], pa.uint64()), "beyond 63 bits"),
        ("allowed", pa.array([1, 1]), "another name"),
        ("offsets", pa.array([1, 1]), "another name"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(name, values, message):
    table = {"x": np.zeros(2), "act": np.zeros(2, int), name: values}
    with pytest.raises(RLTransformerError, match=message) as caught:
        TrajectoryDataset.from_columns(table, observe="x", action="act", keep=name)
    assert name in str(caught.value.where) or name in caught.value.problem


@pytest.mark.parametrize("kind", ["text", "number", "time"])
def test_a_row_without_a_kept_value_is_dropped_and_counted(tmp_path, kind):
    values = {
        "text": pa.array(["a", None, "a", "a"]),
        "number": pa.array([1, 2, None, 3]),
        "time": pa.array([1, None, None, 2], pa.timestamp("ns")),
    }[kind]
    pq.write_table(pa.table({"x": np.arange(4.0), "act": np.arange(4), "k": values}), tmp_path / "t.parquet")
    command = ["convert", f"parquet:{tmp_path / 't.parquet'}", "--observe", "x", "--action", "act", "--keep", "k"]
    assert main([*command, "--output", str(tmp_path / "store")]) == 0
    assert len(open_trajectories(f"rlt:{tmp_path / 'store'}").columns["k"]) == 4 - values.null_count
    dropped = pq.read_table(tmp_path / "store-dropped.parquet")
    assert set(dropped["reason"].to_pylist()) == {"missing value in k"}
    assert len(dropped) == values.null_count


def test_flags_and_files_of_mappings_keep_the_same_columns(tmp_path):
    pq.write_table(visits(), tmp_path / "visits.parquet")
    lines = [f"{name}: {value}" for name, value in COLUMNS.items()]
    (tmp_path / "m.yaml").write_text("\n".join([*lines, "keep: [customer, at]"]))
    source = f"parquet:{tmp_path / 'visits.parquet'}"
    flags = [word for name, value in COLUMNS.items() for word in (f"--{name}", value)]
    assert main(["convert", source, *flags, "--keep", "customer", "at", "--output", str(tmp_path / "a")]) == 0
    assert main(["convert", source, "--mapping", str(tmp_path / "m.yaml"), "--output", str(tmp_path / "b")]) == 0
    opened = open_trajectories(f"{source}?mapping={tmp_path / 'm.yaml'}")
    for name in ("a", "b"):
        store = open_trajectories(f"rlt:{tmp_path / name}")
        assert store.fingerprint == opened.fingerprint
        for column in ("customer", "at"):
            assert store.columns[column].tobytes() == opened.columns[column].tobytes()


def test_shards_hold_what_one_store_holds(tmp_path, small_buckets, other_processes):  # noqa: F811
    from rl_transformer.trajectories.tables.convert import convert_table
    from rl_transformer.trajectories.tables.inputs import memory_input

    table = memory_input(random_log(0), where="log")
    mapping = mapping_of(keep="user,time")
    accounts = [
        convert_table(table, mapping, tmp_path / name, source="log", engine=name) for name in ("local", "shards")
    ]
    stores = [open_trajectories(f"rlt:{account['store']}") for account in accounts]
    assert stores[0].fingerprint == stores[1].fingerprint
    without = convert_table(table, mapping_of(), tmp_path / "without", source="log")
    assert open_trajectories(f"rlt:{without['store']}").fingerprint == stores[0].fingerprint
    for name in ("user", "time"):
        assert np.asarray(stores[0].columns[name]).tolist() == np.asarray(stores[1].columns[name]).tolist()
    assert MAPPING["episode"] == "user"


def test_gates_find_shared_customers_and_times_in_converted_tables():
    keep = {**COLUMNS, "keep": ["customer", "at"]}
    train = TrajectoryDataset.from_columns(visits(), **keep)

    def kinds(table):
        found = compare_splits(train, TrajectoryDataset.from_columns(table, **keep), entity=["customer"])
        return {finding.kind for finding in found if finding.level == "error"}

    assert kinds(visits(100, range(100, 130), hours=5)) == set()
    assert kinds(visits(100, range(20, 50), hours=5)) == {SHARED_ENTITIES}
    assert kinds(visits(20, range(100, 130), hours=5)) == {OVERLAPPING_TIMES}


@pytest.mark.parametrize("name", ["user_id:token", "größe", "delivered (kWh)", "a/b", "../b", "a" * 300])
def test_a_column_of_any_name_can_be_kept_and_read_again(name, tmp_path):
    table = {"x": np.arange(4.0), "act": np.array([0, 1, 0, 1]), name: np.arange(4), name + ".": np.arange(4) + 9}
    store = TrajectoryDataset.from_columns(table, observe="x", action="act", keep=[name, name + "."]).save(
        tmp_path / "store"
    )
    data = open_trajectories(f"rlt:{store}")
    assert data.columns[name].tolist() == [0, 1, 2, 3]
    assert data.columns[name + "."].tolist() == [9, 10, 11, 12]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
