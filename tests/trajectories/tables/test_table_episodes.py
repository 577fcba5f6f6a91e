"""Claims about rows that become episodes: the same as a plain loop over them, and every row accounted for."""

import datetime
import decimal
import itertools
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.blocks import EpisodeBlock
from rl_transformer.trajectories.returns import returns_of_episodes, returns_to_go
from rl_transformer.trajectories.tables.convert import convert_table
from rl_transformer.trajectories.tables.episode_rows import read_arrays
from rl_transformer.trajectories.tables.inputs import MemoryUnit, TableInput, memory_input
from rl_transformer.trajectories.tables.mapping import ColumnMapping, select_columns
from rl_transformer.trajectories.tables.row_buckets import on_disk
from rl_transformer.trajectories.trajectory import Trajectory
from tests.toys import telling_data
from tests.trajectories.table_files import as_arrow, columns_of

MAPPING = {"episode": "user", "order": "time", "observe": "x,y", "action": "a", "reward": "r", "terminated": "done"}


def random_log(seed: int, num_rows: int = 400) -> dict[str, np.ndarray]:
    """Rows of several users in any order, with pauses, ends inside of a user's rows, copies and missing values."""
    random = np.random.default_rng(seed)
    log = {
        "user": random.integers(0, 12, num_rows),
        "time": random.permutation(num_rows * 3)[:num_rows],
        "x": random.normal(size=num_rows),
        "y": random.normal(size=num_rows),
        "a": random.integers(0, 4, num_rows),
        "r": random.normal(size=num_rows),
        "done": random.random(num_rows) < 0.05,
    }
    log["x"][random.random(num_rows) < 0.03] = np.nan
    log["r"][random.random(num_rows) < 0.02] = np.inf
    copies = random.integers(0, num_rows, num_rows // 20)
    return {name: np.concatenate([values, values[copies]]) for name, values in log.items()}


def by_a_plain_loop(log: dict[str, np.ndarray], gap: float):
    """Return episodes as lists of rows with their flags, and the number of rows left out."""
    rows = [dict(zip(log, values, strict=True)) for values in zip(*(v.tolist() for v in log.values()), strict=True)]
    rows.sort(key=lambda row: (row["user"], row["time"]))
    episodes = []
    dropped = 0
    before = None
    for row in rows:
        bad = row["x"] != row["x"] or not np.isfinite(row["r"])
        if before is not None and repr(before) == repr(row):
            dropped += 1
            continue
        is_new = before is None or before["user"] != row["user"] or row["time"] - before["time"] > gap or before["done"]
        if is_new:
            episodes.append({"rows": [], "terminated": False})
        episodes[-1]["terminated"] |= row["done"]
        if bad:
            dropped += 1
        else:
            episodes[-1]["rows"].append(row)
        before = row
    return [episode for episode in episodes if episode["rows"]], dropped


@pytest.mark.parametrize("seed", range(8))
def test_episodes_are_those_of_a_plain_loop_over_sorted_rows(seed):
    log = random_log(seed)
    data = TrajectoryDataset.from_columns(log, **MAPPING, gap=40)
    episodes, dropped = by_a_plain_loop(log, 40)
    assert len(data) == len(episodes) > 12
    assert data.summary.terminated.tolist() == [episode["terminated"] for episode in episodes]
    assert data.summary.truncated.tolist() == [not episode["terminated"] for episode in episodes]
    for index, episode in enumerate(episodes):
        found = data.trajectory(index)
        assert found.observations.tolist() == [[np.float32(row["x"]), np.float32(row["y"])] for row in episode["rows"]]
        assert found.actions.tolist() == [row["a"] for row in episode["rows"]]
        assert found.rewards.tolist() == [row["r"] for row in episode["rows"]]
    (note,) = [finding for finding in data.findings if finding.kind == "rows in no episode"]
    assert note.count == dropped == len(log["user"]) - data.num_steps > 0


def test_the_order_of_the_rows_makes_no_difference():
    log = random_log(3)
    mixed = np.random.default_rng(0).permutation(len(log["user"]))
    one = TrajectoryDataset.from_columns(log, **MAPPING)
    other = TrajectoryDataset.from_columns({name: values[mixed] for name, values in log.items()}, **MAPPING)
    assert one.fingerprint == other.fingerprint
    assert (one.statistics.mean == other.statistics.mean).all()


def test_rows_of_one_moment_are_copies_only_if_all_their_values_are_the_same():
    columns = {"t": [0, 1, 1, 1, 2], "x": [0.0, 5, 6, 5, 7], "a": [0, 1, 1, 1, 0], "end": [0, 1, 0, 1, 0]}
    data = TrajectoryDataset.from_columns(
        {name: np.array(values) for name, values in columns.items()},
        order="t",
        observe="x",
        action="a",
        terminated="end",
    )
    # The copy is that of an episode's last row, and ends no other one.
    assert data.observations[:, 0].tolist() == [0, 5, 6, 7]
    assert data.lengths.tolist() == [2, 2]
    # The order of the two others is that of the table, which the user may not have meant.
    counts = {finding.kind: finding.count for finding in data.findings}
    assert (counts["rows in no episode"], counts["several rows of one moment"]) == (1, 1)


def test_rows_of_other_moments_or_of_other_episodes_are_not_counted_as_those_of_one(tmp_path):
    columns = {"e": [0, 0, 1, 1], "t": [0, 1, 1, 2], "x": [0.0, 5, 6, 7], "a": [0, 1, 1, 1]}
    data = TrajectoryDataset.from_columns(
        {name: np.array(values) for name, values in columns.items()}, episode="e", order="t", observe="x", action="a"
    )
    assert "several rows of one moment" not in {finding.kind for finding in data.findings}


def test_a_list_of_dropped_rows_is_that_of_the_conversion_it_lies_beside(tmp_path, capsys):
    mapping = ColumnMapping.from_values(MAPPING, where="test")
    convert_table(memory_input(random_log(5), where="log"), mapping, tmp_path / "store", source="log")
    assert (tmp_path / "store-dropped.parquet").exists()
    shutil.rmtree(tmp_path / "store")
    clean = {name: values[:3] for name, values in random_log(1).items()}
    account = convert_table(memory_input(clean, where="log"), mapping, tmp_path / "store", source="log")
    assert (account["rows_dropped"], account["dropped_rows"], account["rows_tied"]) == ({}, None, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert "store-dropped.parquet is of an earlier conversion; it is removed" in capsys.readouterr().out


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["e", "t"])
def test_a_row_whose_episode_or_moment_is_no_number_is_in_no_episode(column, value):
    columns = {"e": np.zeros(6), "t": np.arange(6.0), "x": np.arange(6.0), "a": np.zeros(6)}
    columns[column][2] = value
    data = TrajectoryDataset.from_columns(columns, episode="e", order="t", observe="x", action="a")
    assert data.observations[:, 0].tolist() == [0, 1, 3, 4, 5]
    assert data.lengths.tolist() == [5]


def test_unsigned_ids_are_the_integers_they_are_and_large_decimals_are_refused():
    ids = pa.array([5, 7, 5, 7], pa.uint64())
    columns = {"x": pa.array([1.0, 2, 3, 4]), "a": pa.array([1, 0, 1, 0], pa.uint64()), "id": ids}
    data = TrajectoryDataset.from_columns(columns, observe="x", categorical="id", action="a")
    assert dict(data.spec.table.categories)["id"] == (5, 7)
    assert data.spec.table.action_values == ((0, 1),)
    assert data.spec.table.observation({"x": 1.0, "id": np.uint64(7)})["id"] == 2
    many = {**columns, "x": pa.array([decimal.Decimal("12345678901234567890.5")] * 4)}
    with pytest.raises(RLTransformerError, match="x: holds numbers as large as"):
        TrajectoryDataset.from_columns(many, observe="x", action="a")


def test_a_category_of_32_bits_is_the_number_that_people_write():
    columns = {"x": np.zeros(3), "c": np.array([0.1, 0.2, 0.1], np.float32), "a": np.zeros(3)}
    table = TrajectoryDataset.from_columns(columns, observe="x", categorical="c", action="a").spec.table
    assert dict(table.categories)["c"] == (0.1, 0.2)
    assert table.observation({"x": 0, "c": 0.1})["c"] == table.observation({"x": 0, "c": np.float32(0.1)})["c"] == 1


def test_a_glob_of_categorical_columns_makes_actions_discrete_too():
    columns = {"x": np.zeros(4), "act_1": np.array([0.5, 1.5, 0.5, 1.5])}
    for name in ("act_1", "act_*"):
        data = TrajectoryDataset.from_columns(columns, observe="x", action="act_1", categorical=name)
        assert data.spec.table.action_values == ((0.5, 1.5),)


def test_without_an_episode_column_rows_are_one_sequence_that_ends_cut():
    columns = {"x": np.arange(6.0), "a": np.zeros(6), "end": [0, 0, 1, 0, 0, 0], "r": np.ones(6)}
    data = TrajectoryDataset.from_columns(columns, observe="x", action="a", reward="r", truncated="end")
    assert data.lengths.tolist() == [3, 3]
    assert not data.summary.terminated.any()


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [3, 7, 1, 4], []])
def test_returns_of_many_episodes_are_those_of_each(lengths):
    rewards = np.random.default_rng(0).normal(size=sum(lengths)) * 10.0 ** np.arange(sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    each = [returns_to_go(rewards[a:b]) for a, b in itertools.pairwise(offsets)]
    assert returns_of_episodes(rewards, offsets).tolist() == (np.concatenate(each).tolist() if each else [])


@pytest.mark.parametrize("defect", [None, "nan", "action", "both ends", "copy"])
def test_a_block_gives_the_columns_and_findings_of_its_episodes_one_by_one(defect):
    random = np.random.default_rng(1)
    rows = {"o": random.normal(size=(40, 3)), "a": random.integers(0, 3, 40), "r": random.normal(size=40)}
    offsets = np.array([0, 7, 8, 20, 40])
    terminated = np.array([True, False, False, True])
    truncated = ~terminated
    if defect == "nan":
        rows["o"][9, 1] = np.nan
    if defect == "action":
        rows["a"][30] = 7
    if defect == "both ends":
        truncated[0] = True
    if defect == "copy":
        rows = {name: np.concatenate([values[:20], values[:20]]) for name, values in rows.items()}
        offsets = np.array([0, 7, 20, 27, 40])
    spec = TrajectoryDataset.from_episodes([{"observations": rows["o"][:2], "actions": [0, 2], "rewards": [0, 0]}]).spec
    block = EpisodeBlock(Trajectory(rows["o"], rows["a"], rows["r"]), offsets, terminated, truncated)
    together = TrajectoryDataset.in_memory(spec, [block])
    apart = TrajectoryDataset.in_memory(spec, list(block))
    assert together.fingerprint == apart.fingerprint
    assert [f.to_dict() for f in together.findings] == [f.to_dict() for f in apart.findings]
    assert bool(together.findings) == (defect is not None)
    assert together.returns_to_go.tolist() == apart.returns_to_go.tolist()
    assert together.episode_returns.tolist() == apart.episode_returns.tolist()
    for name in ("mean", "std"):
        assert getattr(together.statistics, name).tobytes() == getattr(apart.statistics, name).tobytes()


def one_column(values, **mapping) -> TrajectoryDataset:
    """A table of two episodes whose observation is a column with these values."""
    size = len(values)
    base = {"e": np.arange(size) // 2, "a": pa.array([0.5] * size), "r": pa.array(range(size))}
    fields = {"episode": "e", "action": "a", "reward": "r", "observe": "x", **mapping}
    return TrajectoryDataset.from_columns({**base, "x": values}, **fields)


SECONDS = datetime.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([SECONDS, SECONDS * 90, SECONDS / 4, SECONDS * 0]), [1, 90, 0.25, 0]),
        (pa.array([decimal.Decimal("1.25"), decimal.Decimal("-3.50")] * 2), [1.25, -3.5] * 2),
        (pa.array([True, False, True, True]), [1, 0, 1, 1]),
        (pa.array([2, 3, 2, 3], pa.uint8()), [2, 3, 2, 3]),
        (pa.array([1.5, 2.5, 1.5, 2.5]).dictionary_encode(), [1.5, 2.5, 1.5, 2.5]),
        (pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]), [[1, 2], [3, 4], [5, 6], [7, 8]]),
        (pa.array([[1, 2]] * 4, pa.list_(pa.int16(), 2)), [[1, 2]] * 4),
    ],
    ids=["duration", "decimal", "bool", "uint8", "dictionary", "list", "fixed list"],
)
def test_numbers_of_every_type_are_read_as_they_are_meant(values, expected):
    data = one_column(values)
    assert data.observations.tolist() == (expected if isinstance(expected[0], list) else [[v] for v in expected])


def test_ids_that_float64_cannot_tell_apart_stay_apart_and_are_refused_as_numbers():
    ids = np.array([2**60, 2**60 + 1] * 3)
    columns = {"id": ids, "x": np.arange(6.0), "a": np.zeros(6)}
    data = TrajectoryDataset.from_columns(columns, episode="id", observe="x", action="a")
    assert data.lengths.tolist() == [3, 3]
    assert data.observations[:, 0].tolist() == [0, 2, 4, 1, 3, 5]
    named = TrajectoryDataset.from_columns(columns, episode="id", observe="x", categorical="id", action="a")
    assert dict(named.spec.table.categories)["id"] == (2**60, 2**60 + 1)
    with pytest.raises(
        RLTransformerError, match=r"id: holds numbers as large as 1152921504606846977.*53 bits"
    ) as caught:
        TrajectoryDataset.from_columns(columns, observe="x,id", action="a")
    assert "--categorical id" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observe": "ex"}, "no column is called 'ex'.*did you mean"),
        ({"action": None}, "does not say which columns are the action"),
        ({"observe": "when"}, "when: holds timestamp.*not numbers"),
        ({"observe": "word"}, "word: holds string, not numbers.*--categorical word"),
        ({"reward": "word"}, "word"),
        ({"order": "word"}, "word: holds string, which has no distances"),
        ({"gap": "30m"}, "there is no order column"),
        ({"gap": "30m", "order": "x"}, "'30m' does not fit the column x"),
        ({"gap": "5", "order": "when"}, "'5' does not fit the column when"),
        ({"terminated": "x"}, "x: holds .* and not only 1 and 0"),
        ({"mystery": "x"}, "no field 'mystery'"),
        ({"split": "time:2026-01-01"}, "use rlt convert"),
        ({"allowed": "m_*", "action": "x"}, "allowed actions need one discrete action"),
        ({"observe": "lists"}, "lists: holds lists of 1 to 2 numbers"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_column(change, message):
    columns = {
        "x": pa.array([0.5, 2.0]),
        "a": pa.array([0, 1]),
        "word": pa.array(["b", "c"]),
        "when": pa.array([datetime.datetime(2026, 1, day) for day in (1, 2)]),
        "m_0": pa.array([True, True]),
        "m_1": pa.array([True, True]),
        "lists": pa.array([[1.0], [1.0, 2.0]]),
    }
    with pytest.raises(RLTransformerError) as caught:
        TrajectoryDataset.from_columns(columns, **{"observe": "x", "action": "a", **change})
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


def test_times_with_and_without_a_zone_are_cut_at_the_same_pauses():
    moments = [datetime.datetime(2026, 3, 29, 0, 30) + datetime.timedelta(minutes=m) for m in (0, 20, 60, 95, 100)]
    columns = {"x": np.arange(5.0), "a": np.zeros(5)}
    for kind in (pa.timestamp("s"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("ns", "UTC")):
        table = {**columns, "t": pa.array(moments, kind)}
        data = TrajectoryDataset.from_columns(table, order="t", gap="30m", observe="x", action="a")
        assert data.lengths.tolist() == [2, 1, 2], kind


@pytest.fixture
def small_buckets(monkeypatch):
    monkeypatch.setattr("rl_transformer.trajectories.tables.row_buckets._ROWS_PER_BUCKET", 40)
    monkeypatch.setattr("rl_transformer.trajectories.tables.row_buckets._BYTES_PER_PART", 1)


def in_pieces(log, count=6):
    """The log as a table that is read in several pieces."""
    table = pa.table(log)
    whole = memory_input(table, where="log")
    borders = np.linspace(0, len(table), count + 1).astype(int)
    units = [MemoryUnit(table.slice(a, b - a), f"piece {a}") for a, b in itertools.pairwise(borders)]
    return TableInput(whole.schema, units, "log")


def test_a_table_that_is_sorted_on_disk_gives_the_same_data_as_in_memory(tmp_path, small_buckets):
    log = random_log(5)
    mapping = ColumnMapping.from_values({**MAPPING, "gap": 40}, where="test")
    account = convert_table(in_pieces(log), mapping, tmp_path / "store", source="log")
    stored = open_trajectories(f"rlt:{tmp_path / 'store'}")
    memory = TrajectoryDataset.from_columns(log, **MAPPING, gap=40)
    assert stored.fingerprint == memory.fingerprint
    assert stored.statistics.mean.tobytes() == memory.statistics.mean.tobytes()
    assert account["rows_in"] == len(log["user"]) == account["steps_out"] + sum(account["rows_dropped"].values())
    assert account["rows_dropped"].keys() == {"missing value in x", "infinite value in r", "same as another row"}
    dropped = pq.read_table(account["dropped_rows"])
    assert len(dropped) == sum(account["rows_dropped"].values())
    assert set(dropped["reason"].to_pylist()) == set(account["rows_dropped"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "store-dropped.parquet"]


def test_a_conversion_that_was_killed_goes_on_with_the_parts_it_has(tmp_path, small_buckets, capsys):
    log = random_log(6)
    mapping = ColumnMapping.from_values(MAPPING, where="test")
    table = in_pieces(log)
    read = []

    class Killed(BaseException):
        pass

    class Watched:
        def __init__(self, unit, is_fatal):
            self.unit, self.is_fatal, self.name, self.num_bytes = unit, is_fatal, unit.name, 10

        def batches(self, columns):
            if len(columns) > 1:  # the first look reads the episodes' names only
                read.append(self.name)
                if self.is_fatal:
                    raise Killed
            return self.unit.batches(columns)

    fatal = TableInput(table.schema, [Watched(u, i == 4) for i, u in enumerate(table.units)], "log")
    with pytest.raises(Killed):
        convert_table(fatal, mapping, tmp_path / "store", source="log")
    assert len(read) == 5
    read.clear()
    again = TableInput(table.schema, [Watched(u, False) for u in table.units], "log")
    convert_table(again, mapping, tmp_path / "store", source="log")
    assert len(read) == 2  # four parts of six were done
    assert "4 of 6 parts of the table were sorted before" in capsys.readouterr().out
    assert (
        open_trajectories(f"rlt:{tmp_path / 'store'}").fingerprint
        == TrajectoryDataset.from_columns(log, **MAPPING).fingerprint
    )


def test_a_file_that_was_rewritten_after_a_kill_is_sorted_again(tmp_path):
    path = tmp_path / "log.npz"
    mapping = ColumnMapping.from_values({"episode": "e", "observe": "x", "action": "a"}, where="test")
    columns = {"e": np.arange(4) // 2, "x": np.ones(4), "a": np.zeros(4)}
    np.savez(path, **columns)
    table = read_arrays(path, where="log")
    on_disk(
        table, select_columns(mapping, list(columns), where="test"), mapping, tmp_path / ".store.rows", lambda n: None
    )
    np.savez(path, **{**columns, "x": np.full(4, 7.0)})
    convert_table(read_arrays(path, where="log"), mapping, tmp_path / "store", source="log")
    assert open_trajectories(f"rlt:{tmp_path / 'store'}").observations[:, 0].tolist() == [7] * 4


def test_rows_that_were_sorted_for_another_mapping_are_not_used(tmp_path, small_buckets, capsys):
    log = random_log(7)
    for fields in (MAPPING, {**MAPPING, "gap": 10}):
        mapping = ColumnMapping.from_values(fields, where="test")
        columns = select_columns(mapping, list(log), where="test")
        on_disk(in_pieces(log), columns, mapping, tmp_path / ".store.rows", lambda rows: None)
    assert "another mapping; it is removed" in capsys.readouterr().out


def test_a_table_of_a_data_set_is_that_data_set():
    data = telling_data()
    table = as_arrow(columns_of(data))
    again = TrajectoryDataset.from_columns(
        table, episode="episode", order="step", observe="observations", action="actions", reward="rewards",
        terminated="terminated", truncated="truncated",
    )  # fmt: skip
    assert again.fingerprint == data.fingerprint
