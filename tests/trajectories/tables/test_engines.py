"""Claims about conversions in several processes: the same data as in one, whatever is computed where and how often."""

import contextlib
import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.cli.main import main
from rl_transformer.trajectories.readers.tables import ParquetReader
from rl_transformer.trajectories.sharded_column import ShardedColumn
from rl_transformer.trajectories.tables import convert, row_buckets
from rl_transformer.trajectories.tables.convert import convert_table
from rl_transformer.trajectories.tables.mapping import ColumnMapping
from tests.trajectories.tables.test_table_episodes import MAPPING, in_pieces, random_log

COUNTS = ("rows_in", "steps_out", "held_out_steps", "rows_dropped", "rows_tied")


@pytest.fixture
def small_buckets(monkeypatch):
    monkeypatch.setattr(row_buckets, "_ROWS_PER_BUCKET", 40)
    monkeypatch.setattr(row_buckets, "_BYTES_PER_PART", 1)


@pytest.fixture
def other_processes(monkeypatch):
    """Compute every step twice, the last one first, from a copy of what it is given, as other processes would."""

    def run(function, shared, numbers):
        def compute(number):
            return pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(shared)), number)))

        results = {number: (compute(number), compute(number))[1] for number in reversed(list(numbers))}
        return (results[number] for number in numbers)

    engines = {"local": convert.in_this_process, "shards": run}
    monkeypatch.setattr(convert, "engine_named", lambda name: contextlib.nullcontext(engines[name]))


def mapping_of(**further):
    return ColumnMapping.from_values({**MAPPING, "gap": 40, **further}, where="test")


def assert_same_conversion(local, other):
    """Check accounts and stores of two conversions."""
    assert [other[name] for name in COUNTS] == [local[name] for name in COUNTS]
    assert list(other["rows_dropped"]) == list(local["rows_dropped"])
    dropped = [repr(pq.read_table(account["dropped_rows"]).to_pylist()) for account in (local, other)]
    assert dropped[0] == dropped[1]
    for part in ("store", "held_out"):
        if local[part] is None:
            assert other[part] is None
            continue
        whole = open_trajectories(f"rlt:{local[part]}")
        shards = open_trajectories(f"rlt:{other[part]}", verify=True)
        assert isinstance(shards.observations, ShardedColumn) or len(list(Path(other[part]).glob("shard-*"))) == 1
        assert shards.fingerprint == whole.fingerprint
        assert shards.spec == whole.spec
        for name, column in whole.columns.items():
            assert np.asarray(shards.columns[name]).tobytes() == np.asarray(column).tobytes()
        assert shards.statistics.std.tobytes() == whole.statistics.std.tobytes()
        assert [f.to_dict() for f in shards.findings] == [f.to_dict() for f in whole.findings]


@pytest.mark.parametrize(
    "further",
    [
        {"keep": "user,time"},
        {"split": "entity:0.3"},
        {"split": "time:700", "categorical": "y"},
        {"observe": "x", "action": "y"},
    ],
)
def test_shards_that_are_written_anywhere_are_the_data_of_one_process(
    further, tmp_path, small_buckets, other_processes
):
    mapping = mapping_of(**further)
    accounts = {
        engine: convert_table(in_pieces(random_log(5)), mapping, tmp_path / engine, source="log", engine=engine)
        for engine in ("local", "shards")
    }
    assert_same_conversion(accounts["local"], accounts["shards"])
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not list((tmp_path / "shards").rglob(".*"))


def test_files_are_read_by_other_processes_too(tmp_path, small_buckets, other_processes):
    log = pa.table(random_log(5))
    pq.write_table(log, tmp_path / "log.parquet", row_group_size=100)
    table = ParquetReader().table(str(tmp_path / "log.parquet"), {})
    accounts = [
        convert_table(table, mapping_of(), tmp_path / engine, source="log", engine=engine)
        for engine in ("local", "shards")
    ]
    assert_same_conversion(*accounts)


def test_a_machine_that_does_not_see_the_output_says_so(tmp_path, small_buckets, monkeypatch):
    def elsewhere(function, shared, numbers):
        (tmp_path / ".store.rows" / "plan.json").unlink()
        return (function(shared, number) for number in numbers)

    monkeypatch.setattr(convert, "engine_named", lambda name: contextlib.nullcontext(elsewhere))
    with pytest.raises(RLTransformerError, match="disk that all machines of the cluster share"):
        convert_table(in_pieces(random_log(5)), mapping_of(), tmp_path / "store", source="log", engine="shards")


def test_engines_are_refused_where_they_cannot_be_used(tmp_path, capsys):
    pq.write_table(pa.table({"x": np.arange(5.0), "a": [0, 1, 0, 1, 0]}), tmp_path / "log.parquet")
    command = ["convert", f"parquet:{tmp_path / 'log.parquet'}", "--observe", "x", "--action", "a"]
    for given, message in (
        (["--engine", "ray"], "one sequence"),
        (["--engine", "spark", "--episode", "a"], "no engine"),
    ):
        assert main([*command, *given, "--output", str(tmp_path / "store")]) == 2
        assert message in capsys.readouterr().err
    assert main(["convert", "rlt:walks", "--engine", "ray", "--output", str(tmp_path / "store")]) == 2
    assert "is not a table" in capsys.readouterr().err


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is an extra of its own: make test-slow installs it")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_store_also_when_a_worker_is_killed(tmp_path, small_buckets, cluster, monkeypatch):
    mapping = mapping_of(split="entity:0.3", keep="user,time")
    local = convert_table(in_pieces(random_log(5)), mapping, tmp_path / "local", source="log")
    write_part, killed = row_buckets._write_part, tmp_path / "killed"

    def write_part_or_die(sorting, index):
        if index == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return write_part(sorting, index)

    monkeypatch.setattr(row_buckets, "_write_part", write_part_or_die)
    on_ray = convert_table(in_pieces(random_log(5)), mapping, tmp_path / "ray", source="log", engine="ray")
    assert killed.exists()
    assert_same_conversion(local, on_ray)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_errors_of_ray_tasks_are_those_of_one_process(tmp_path, small_buckets, cluster):
    log = {**random_log(5), "y": ["1"] * 420}
    messages = []
    for engine in ("local", "ray"):
        with pytest.raises(RLTransformerError) as caught:
            convert_table(
                in_pieces(log), mapping_of(observe="x", reward="y"), tmp_path / "s", source="log", engine=engine
            )
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
