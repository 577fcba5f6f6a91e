"""Claims about every registered reader: the same data from every format, valid episodes, and options that are its own."""

from typing import ClassVar

import pytest

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from rl_transformer.runtime.registry import loading_plugin
from rl_transformer.trajectories import DataSpec, Space, Trajectory
from rl_transformer.trajectories.blocks import one_by_one
from rl_transformer.trajectories.findings import Finding
from rl_transformer.trajectories.open import parse_uri, stream_trajectories
from rl_transformer.trajectories.readers import READERS, ReaderOption, Source
from tests.toys import telling_data
from tests.trajectories.foreign_files import (
    game_data,
    write_d3rlpy,
    write_d4rl,
    write_kzl,
    write_minari_vectors,
    write_replay,
    write_rlt,
)
from tests.trajectories.table_files import write_csv, write_hf, write_jsonl, write_lerobot, write_npz, write_parquet

# Tables of steps; their columns have names that need no mapping.
TABLES = {
    "parquet": lambda folder: write_parquet(folder / "telling", telling_data()),
    "csv": lambda folder: write_csv(folder / "telling.csv", telling_data()),
    "jsonl": lambda folder: write_jsonl(folder / "telling.jsonl", telling_data()),
    "npz": lambda folder: write_npz(folder / "telling.npz", telling_data()),
    "hf": lambda folder: write_hf(folder / "telling", telling_data()),
    "lerobot": lambda folder: write_lerobot(folder / "telling", telling_data()),
}
# What a format holds: vectors, or the frames of a game.
DATA = {"minari": telling_data, "d4rl": telling_data, "rlt": telling_data, "dqn-replay": game_data}
DATA |= dict.fromkeys(("kzl-pickle", "d3rlpy", *TABLES), telling_data)
# Formats that do not record what was seen after the last action.
WITHOUT_FINAL = ("d4rl", "dqn-replay", "d3rlpy", *TABLES)
WRITERS = {
    "minari": lambda folder: write_minari_vectors("toy/telling-v0", telling_data()),
    "d4rl": lambda folder: write_d4rl(folder / "telling.hdf5", telling_data()),
    "rlt": lambda folder: write_rlt(folder / "telling", telling_data()),
    "dqn-replay": lambda folder: write_replay(folder / "replay", game_data()),
    "kzl-pickle": lambda folder: write_kzl(folder / "telling.pkl", telling_data()),
    "d3rlpy": lambda folder: write_d3rlpy(folder / "telling.h5", telling_data()),
    **TABLES,
}
BUILT_IN = [name for name in READERS.names() if not READERS.is_from_plugin(name)]
every_reader = pytest.mark.parametrize("scheme", BUILT_IN)


@pytest.fixture
def uri(scheme, tmp_path, monkeypatch):
    """The URI of `telling_data` in the reader's format."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return WRITERS[scheme](tmp_path)


@pytest.fixture
def opened(scheme, monkeypatch):
    """A list that receives the path and the options of every call of the reader's ``open``."""
    reader = READERS.get(scheme, where="test")
    genuine = reader.open
    calls = []

    def recording(self, path, **options):
        calls.append((path, options))
        return genuine(self, path, **options)

    monkeypatch.setattr(reader, "open", recording)
    return calls


def test_all_built_in_readers_are_held_to_the_contract():
    assert len(BUILT_IN) == 12
    assert set(BUILT_IN) == set(WRITERS)


@every_reader
def test_a_reader_gives_the_same_fingerprint_for_the_same_data(scheme, uri):
    assert uri.startswith(f"{scheme}:")
    data = DATA[scheme]()
    for read in (open_trajectories(uri), open_trajectories(uri)):
        assert read.fingerprint == data.fingerprint
        assert (read.num_trajectories, read.num_steps) == (data.num_trajectories, data.num_steps) == (3, 13)
        assert not [finding for finding in read.findings if finding.level == "error"]


@every_reader
def test_every_episode_of_a_reader_is_a_valid_trajectory(scheme, uri):
    data = DATA[scheme]()
    source = stream_trajectories(uri)
    assert isinstance(source.spec, DataSpec)
    read = list(one_by_one(source.trajectories))
    assert len(read) == 3
    for i, trajectory in enumerate(read):
        expected = data.trajectory(i)
        assert isinstance(trajectory, Trajectory)
        assert trajectory.observations.tolist() == expected.observations.tolist()
        assert trajectory.actions.tolist() == expected.actions.tolist()
        assert trajectory.rewards.tolist() == expected.rewards.tolist()
        assert (trajectory.terminated, trajectory.truncated) == (expected.terminated, expected.truncated)
        # D4RL's files need not hold what was seen after the last action; the others do.
        if trajectory.final_observation is not None:
            assert trajectory.final_observation.tolist() == expected.final_observation.tolist()
        assert (trajectory.final_observation is None) == (scheme in WITHOUT_FINAL)
    again = TrajectoryDataset.in_memory(source.spec, read)
    assert again.fingerprint == data.fingerprint


@every_reader
def test_an_unknown_option_is_refused_by_name_wherever_it_is_given(scheme, uri):
    reader = READERS.get(scheme, where="test")
    known = ", ".join(reader.options) or "none"
    for attempt in (lambda: open_trajectories(f"{uri}?mystery=1"), lambda: open_trajectories(uri, mystery=1)):
        with pytest.raises(RLTransformerError, match="has no option 'mystery'") as caught:
            attempt()
        assert reader.usage in caught.value.problem
        assert known in caught.value.fix


@every_reader
def test_options_in_the_uri_are_parsed_and_those_of_the_call_win(scheme, uri, opened):
    reader = READERS.get(scheme, where="test")
    path = uri.removeprefix(f"{scheme}:")
    defaults = {name: option.default for name, option in reader.options.items()}
    open_trajectories(uri)
    assert opened.pop() == (path, defaults)
    for name, option in reader.options.items():
        if option.type is int:
            with pytest.raises(RLTransformerError, match=f"{name}: 'many' is not of type int"):
                open_trajectories(f"{uri}?{name}=many")
            continue
        if name == "mapping":
            continue  # names a file, which has tests of its own
        if option.type is str:
            open_trajectories(f"{uri}?{name}=Pong")  # the only option of this type names a game
            assert opened.pop() == (path, {**defaults, name: "Pong"})
            continue
        assert option.type is bool, "add a value of the new type to this test"
        for text, value in (("true", True), ("1", True), ("False", False), ("0", False)):
            open_trajectories(f"{uri}?{name}={text}")
            assert opened.pop() == (path, {**defaults, name: value})
        open_trajectories(f"{uri}?{name}=false", **{name: True})
        assert opened.pop() == (path, {**defaults, name: True})
        with pytest.raises(RLTransformerError, match=f"{name}: 'maybe' is not of type bool") as caught:
            open_trajectories(f"{uri}?{name}=maybe")
        assert caught.value.fix == "write true or false"


def test_the_options_of_the_built_in_readers_are_the_documented_ones():
    options = {scheme: list(READERS.get(scheme, where="test").options) for scheme in BUILT_IN}
    assert options == {
        "minari": [],
        "d4rl": ["keep_unfinished", "max_episode_steps"],
        "rlt": ["verify"],
        "dqn-replay": ["steps", "seed", "episodes_per_draw", "buffers", "game"],
        "kzl-pickle": ["keep_unfinished", "max_episode_steps"],
        "d3rlpy": [],
        **{key: ["mapping"] for key in TABLES},
    }
    for scheme in BUILT_IN:
        for option in READERS.get(scheme, where="test").options.values():
            assert option.help.endswith(".")


@every_reader
def test_data_that_is_not_there_is_refused_by_name(scheme, uri):
    path = {"minari": "toy/absent-v0", "d4rl": "/absent.hdf5"}.get(scheme, "/absent")
    with pytest.raises(RLTransformerError, match=path) as caught:
        open_trajectories(f"{scheme}:{path}")
    assert caught.value.fix


def test_a_store_is_verified_when_its_uri_says_so(tmp_path):
    uri = write_rlt(tmp_path / "s", telling_data())
    file = tmp_path / "s" / "rewards.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_trajectories(uri)
    with pytest.raises(RLTransformerError, match=r"rewards\.npy: has changed"):
        open_trajectories(f"{uri}?verify=true")


def test_a_path_that_exists_is_never_cut_at_a_question_mark(tmp_path):
    uri = write_d4rl(tmp_path / "what?keep_unfinished=true", telling_data(), tail=2)
    assert parse_uri(uri) == ("d4rl", uri.removeprefix("d4rl:"), {})
    assert open_trajectories(uri).num_steps == 13
    assert open_trajectories(f"{uri}?keep_unfinished=true").num_steps == 15


class _Broken:
    """A reader of a plugin; each subclass breaks one promise."""

    usage = "broken:NAME"
    options = {"number": ReaderOption(1, "A number.", int)}  # noqa: RUF012
    spec = DataSpec(Space.box((1,)), Space.box((1,), -1, 1))


class _ReturnsAList(_Broken):
    def open(self, path, *, number):
        return []


class _HasNoSpec(_Broken):
    def open(self, path, *, number):
        return Source({}, iter(()))


class _Raises(_Broken):
    def open(self, path, *, number):
        raise KeyError(path)


class _YieldsDicts(_Broken):
    def open(self, path, *, number):
        return Source(self.spec, iter([{}]))


class _RaisesLater(_Broken):
    def open(self, path, *, number):
        return Source(self.spec, (1 / 0 for _ in range(2)))


BROKEN = {
    _ReturnsAList: r"open\(\) returned list, not a Source",
    _HasNoSpec: "Source.spec is dict, not a DataSpec",
    _Raises: r"open\(\) raised KeyError: 'here'",
    _YieldsDicts: "episode 0 is dict, not a Trajectory",
    _RaisesLater: "episode 0 raised ZeroDivisionError",
}


@pytest.mark.parametrize("reader", BROKEN)
def test_a_reader_of_a_plugin_that_breaks_the_contract_is_named(reader):
    with loading_plugin("my_plugin"):
        READERS.register("broken", reader)
    try:
        with pytest.raises(
            RLTransformerError, match=f"reader 'broken' breaks its contract: {BROKEN[reader]}"
        ) as caught:
            open_trajectories("broken:here?number=3")
        assert caught.value.where == "plugin my_plugin"
        with pytest.raises(RLTransformerError, match="'x' is not of type int"):
            open_trajectories("broken:here?number=x")
    finally:
        READERS.unregister("broken")


def test_a_reader_that_lacks_a_part_is_refused_when_it_is_registered():
    with loading_plugin("my_plugin"), pytest.raises(RLTransformerError, match="which lacks open") as caught:
        READERS.register("incomplete", _Broken)
    assert caught.value.where == "plugin my_plugin"
    assert "incomplete" not in READERS.names()


def test_notes_that_a_reader_adds_while_its_episodes_are_read_reach_the_dataset(monkeypatch, tmp_path):
    """A reader that streams knows what it left out only at the end."""
    data = telling_data()

    class LateReader:
        usage = "late:FILE"
        options: ClassVar = {}

        def open(self, path):
            notes = []

            def episodes():
                yield data.trajectory(0)
                notes.append(Finding("warning", "left_out", "rewards", "two episodes were left out", "repair them"))

            return Source(data.spec, episodes(), notes)

    monkeypatch.setitem(READERS._entries, "late", LateReader)
    read = open_trajectories("late:anything")
    assert [finding.problem for finding in read.findings if finding.kind == "left_out"] == [
        "two episodes were left out"
    ]
