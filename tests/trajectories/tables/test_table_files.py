"""Claims about table files that harm the process that reads them: it is another one, and the harm is one message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.runtime.limits import LIMITS, Limit
from rl_transformer.trajectories.tables import files
from rl_transformer.trajectories.tables.files import open_files

ROOT = Path(__file__).parents[3]
ROWS = 300_000


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A file of two row groups, larger than a pipe holds."""
    path = tmp_path_factory.mktemp("table") / "log.parquet"
    pq.write_table(pa.table({"x": np.arange(ROWS), "y": np.arange(ROWS) / 7}), path, row_group_size=ROWS // 2)
    return path


@pytest.fixture
def processes(monkeypatch):
    """The processes that were started."""
    started = []
    genuine = subprocess.Popen
    monkeypatch.setattr(files.subprocess, "Popen", lambda *a, **o: started.append(genuine(*a, **o)) or started[-1])
    return started


def use(monkeypatch, checker):
    """Let another function stand for the one that reads tables."""
    genuine = files.child_command
    name = f"tests.trajectories.tables.table_checkers:{checker}"
    monkeypatch.setattr(files, "child_command", lambda function: genuine(name))


def opened(path):
    return open_files(str(path), "parquet", where=f"parquet:{path}")


@pytest.mark.parametrize(
    ("checker", "problem"),
    [
        ("crashes", r"terminates the reading process \(SIGSEGV\)"),
        ("hangs", "goes on for 2 seconds without a result"),
        ("hangs_at_the_start", "goes on for 2 seconds without a result"),
        ("fills_the_memory", "takes more than 4 GiB of memory"),
    ],
)
def test_what_a_file_does_to_its_reader_is_one_message(checker, problem, log, monkeypatch, processes):
    monkeypatch.setattr(files, "seconds_to_read", lambda num_bytes: 2 if "hangs" in checker else 60)
    use(monkeypatch, checker)
    with pytest.raises(RLTransformerError, match=problem) as caught:
        list(opened(log).batches(1, ["x"]))
    assert str(log) in caught.value.where
    assert caught.value.fix
    assert [process.poll() is not None for process in processes] == [True]


def test_what_a_library_prints_is_not_taken_for_rows(log, monkeypatch):
    use(monkeypatch, "talks")
    table = opened(log)
    assert sum(len(batch) for piece in (0, 1) for batch in table.batches(piece, ["x"])) == ROWS


def test_rows_of_two_pieces_may_be_asked_for_in_turn_and_left_in_the_middle(log, processes):
    table = opened(log)
    first = table.batches(0, ["x"])
    second = table.batches(1, ["x", "y"])
    assert next(first)["x"][0].as_py() == 0
    assert next(second)["x"][0].as_py() == ROWS // 2
    assert sum(map(len, first)) + sum(map(len, second)) < ROWS
    next(table.batches(0, ["x"]))  # and the others are not wanted
    assert len(processes) == 2
    assert sum(process.poll() is None for process in processes) == 1
    assert [len(batch) for batch in table.batches(0, ["y"])] == [1 << 17, ROWS // 2 - (1 << 17)]
    assert len(processes) == 2
    del table
    assert all(process.poll() is not None for process in processes)


def test_a_process_that_ended_meanwhile_is_replaced_unless_the_files_were_changed(log, tmp_path, processes):
    path = tmp_path / "log.parquet"
    path.write_bytes(log.read_bytes())
    table = opened(path)
    assert len(table.pieces) == 2
    processes[0].kill()
    processes[0].wait()
    assert sum(map(len, table.batches(0, ["x"]))) == ROWS // 2
    processes[1].kill()
    processes[1].wait()
    pq.write_table(pa.table({"x": np.arange(5), "y": np.zeros(5)}), path)
    with pytest.raises(RLTransformerError, match="was changed while it was read"):
        list(table.batches(0, ["x"]))


PARENT = """
import sys
from rl_transformer.trajectories.tables import files
command = files.child_command
files.child_command = lambda function: command("tests.trajectories.tables.table_checkers:hangs")
table = files.open_files(sys.argv[1], "parquet", where="log")
rows = table.batches(0, ["x"])
next(rows)
print(table._first._process.pid, flush=True)
next(rows)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the processes in /proc")
def test_a_process_ends_with_the_one_that_started_it_and_outlives_control_c(log):
    with subprocess.Popen([sys.executable, "-c", PARENT, log], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        child = Path("/proc") / parent.stdout.readline().strip()
        os.kill(int(child.name), signal.SIGINT)  # a terminal sends it to both, and the parent answers it
        time.sleep(0.2)
        assert child.exists()
        parent.kill()
    until = time.monotonic() + 10
    while child.exists() and (child / "stat").read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() or (child / "stat").read_text().split()[2] == "Z"


# Files


def test_a_small_file_whose_rows_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "child_bytes", Limit(2**30, ""))
    word = pa.array(["x" * 2**20])
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1500, np.int32)), word)
    table = pa.table({"episode": np.zeros(1500), "observations": rows, "actions": np.zeros(1500)})
    pq.write_table(table, tmp_path / "bomb.parquet", store_schema=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < 2**18
    with pytest.raises(RLTransformerError, match="takes more than 1 GiB of memory") as caught:
        list(opened(tmp_path / "bomb.parquet").batches(0, ["observations"]))
    assert "row groups" in caught.value.fix


def test_lists_that_point_behind_their_values_are_refused(tmp_path):
    offsets = pa.py_buffer(np.array([0, 4_000_000, 8], np.int32))
    values = pa.array(np.arange(8.0))
    lists = pa.Array.from_buffers(pa.list_(pa.float64()), 2, [None, offsets], children=[values])
    table = pa.table({"observations": lists, "actions": np.zeros(2), "rewards": np.zeros(2), "dones": [False, True]})
    (tmp_path / "hf").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "hf/data.arrow"), table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(RLTransformerError, match="offset") as caught:
        open_trajectories(f"hf:{tmp_path / 'hf'}")
    assert caught.value.where.endswith("data.arrow")


def test_texts_that_are_none_are_refused(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"x": bad}), tmp_path / "log.parquet")
    with pytest.raises(RLTransformerError, match="UTF8"):
        list(opened(tmp_path / "log.parquet").batches(0, ["x"]))


@pytest.mark.parametrize("content", [b"episode,step,a\xaf\n1,2,3\n", b"\x80\x02cos,b\n1,2\n"])
def test_names_of_columns_that_are_no_texts_are_refused(content, tmp_path):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(RLTransformerError, match="the name of a column is not UTF-8"):
        open_trajectories(f"csv:{tmp_path / 'log.csv'}")


def test_a_flag_that_is_no_text_is_refused_by_name(tmp_path):
    """Arrow takes a column for bytes, and not for flags, if one of its texts is not UTF-8."""
    rows = b"0,0,1.0,0.5,1.0,Fa\xecse\n0,1,2.0,0.5,1.0,True\n"
    (tmp_path / "log.csv").write_bytes(b"episode,step,observations,actions,rewards,terminated\n" + rows)
    with pytest.raises(RLTransformerError, match="terminated: holds binary, not true and false"):
        open_trajectories(f"csv:{tmp_path / 'log.csv'}")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_more_columns_than_any_table_has_are_refused_before_they_are_read(suffix, tmp_path):
    names = [f"c{i}" for i in range(20_001)]
    if suffix == "csv":
        (tmp_path / "log.csv").write_text(",".join(names) + "\n")
    else:
        pq.write_table(pa.table({name: pa.array([], pa.int8()) for name in names}), tmp_path / "log.parquet")
    with pytest.raises(RLTransformerError, match="declares 20,001 columns of a table, and the limit is 20,000"):
        open_trajectories(f"{suffix}:{tmp_path / f'log.{suffix}'}")


def test_only_the_other_process_reads_tables():
    """What parses files of strangers is named in one module, which no other one imports."""
    parsers = (
        "pyarrow.dataset",
        "pyarrow.csv",
        "pyarrow import csv",
        "pyarrow.json",
        "read_table",
        "ParquetFile",
        "runtime.table_files import",
    )
    found = {
        (path.name, parser)
        for path in (ROOT / "src").rglob("*.py")
        for parser in parsers
        if any(
            parser in line and not line.startswith('"""')
            for line in path.read_text().splitlines()
            if "import" in line or "(" in line
        )
    }
    # The second reads only the lists of dropped rows that its own workers wrote.
    assert {name for name, _ in found} == {"table_files.py", "write_shards.py"}, found


ROW = {"episode": 0, "step": 0, "observations": [1.5, 2.5], "actions": [0.5], "rewards": 3.0, "terminated": False}


@pytest.mark.parametrize("length", [10, 900_000, 1_500_000, 3_000_000])
@pytest.mark.parametrize("rows", [1, 3])
def test_no_value_of_a_long_or_only_line_of_json_is_lost(rows, length, tmp_path):
    """Arrow reads nothing but nulls where its first block of a file holds no end of a line."""
    lines = [json.dumps({**ROW, "step": step, "note": "x" * (length if step == 0 else 1)}) for step in range(rows)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))  # nothing ends the last line, as is common
    if rows == 1 and length > 1 << 20:
        with pytest.raises(RLTransformerError, match="its first line has no end: append a newline"):
            open_trajectories(f"jsonl:{path}")
        path.write_text(f"{lines[0]}\n")  # as it says
    data = open_trajectories(f"jsonl:{path}")
    assert (data.num_steps, data.rewards.tolist()) == (rows, [3.0] * rows)
