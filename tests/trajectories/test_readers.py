"""Claims about foreign formats: nothing mixes, nothing is lost silently, nothing outside is touched."""

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from rl_transformer import RLTransformerError, TrajectoryDataset, open_trajectories
from rl_transformer.trajectories.open import read_trajectories, stream_trajectories
from rl_transformer.trajectories.readers import hdf5
from rl_transformer.trajectories.store import open_store, write_store
from tests.toys import telling_data
from tests.trajectories.foreign_files import write_d4rl, write_minari, write_minari_vectors


@pytest.fixture
def minari_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_observations_do_not_drift_from_the_second_episode_on(minari_root, data_format):
    data = telling_data()
    write_minari_vectors("toy/telling-v0", data, data_format)
    read = open_trajectories("minari:toy/telling-v0")
    assert read.observations[-1].tolist() == [201, -201]  # last step of the last episode
    np.testing.assert_array_equal(read.observations, data.observations)
    np.testing.assert_array_equal(read.actions, data.actions)
    assert read.summary.truncated.tolist() == [False, True, False]


def test_every_format_of_the_same_data_has_the_same_fingerprint(minari_root, tmp_path):
    data = telling_data()
    for data_format in ("hdf5", "arrow"):
        write_minari_vectors(f"toy/{data_format}-v0", data, data_format)
    uris = ["minari:toy/hdf5-v0", "minari:toy/arrow-v0", write_d4rl(tmp_path / "d.hdf5", data)]
    source = stream_trajectories(uris[0])
    uris.append(write_store(tmp_path / "store", source.spec, source.trajectories, notes=source.notes).location)
    assert {open_trajectories(uri).fingerprint for uri in uris} == {data.fingerprint}


def test_minari_dict_observations_are_flattened_in_every_episode(minari_root):
    space = spaces.Dict({"goal": spaces.Box(-9, 9, (1,), np.float32), "at": spaces.Discrete(3)})
    buffers = [
        EpisodeBuffer(
            observations={"goal": np.full((length + 1, 1), e, np.float32), "at": np.arange(length + 1) % 3},
            actions=np.zeros(length, np.int64),
            rewards=np.zeros(length),
            terminations=np.arange(length) == length - 1,
            truncations=np.zeros(length, bool),
        )
        for e, length in enumerate((2, 3))
    ]
    write_minari("toy/dict-v0", buffers, space, spaces.Discrete(2))
    data = open_trajectories("minari:toy/dict-v0")
    assert data.observations[-1].tolist() == [
        0,
        0,
        1,
        1,
    ]  # at is 2 of 0..2, then the goal of episode 1 (keys are sorted)
    assert data.actions.dtype == np.int64


def test_minari_images_stay_bytes(minari_root):
    picture = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3), dtype=np.uint8)
    ends = {"terminations": np.array([0, 0, 1], bool), "truncations": np.zeros(3, bool)}
    buffer = EpisodeBuffer(observations=picture, actions=np.zeros(3, np.int64), rewards=np.zeros(3), **ends)
    write_minari(
        "toy/image-v0", [buffer], spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Discrete(2), jpeg_encoding=False
    )
    data = open_trajectories("minari:toy/image-v0")
    assert (data.observations.dtype, data.observations.shape) == (np.uint8, (3, 3, 40, 40))
    np.testing.assert_array_equal(data.observations[2], np.moveaxis(picture[2], -1, 0))
    assert data.statistics is None


def test_an_error_of_hdf5_that_minari_lets_through_names_the_dataset(minari_root, monkeypatch):
    """Found by a fuzzer: a damaged table of links is a RuntimeError of h5py, once the rest of the file was read."""
    uri = write_minari_vectors("toy/telling-v0", telling_data())

    def episodes(self, *_):
        raise RuntimeError("Unable to synchronously check link existence")
        yield

    monkeypatch.setattr("minari.MinariDataset.iterate_episodes", episodes)
    with pytest.raises(RLTransformerError, match="episode 0 cannot be read: Unable to synchronously") as caught:
        open_trajectories(uri)
    assert caught.value.fix


def test_minari_metadata_names_no_code_and_no_path(minari_root):
    data = telling_data()
    write_minari_vectors("toy/telling-v0", data)
    for uri, message in (
        ("minari:../../etc/passwd-v0", "not a Minari id"),
        ("minari:toy/other-v0", r"no such dataset .*there: toy/telling-v0"),
        ("minari:toy", "not a Minari id"),
    ):
        with pytest.raises(RLTransformerError, match=message):
            open_trajectories(uri)
    metadata = minari_root / "toy/telling-v0/data/metadata.json"
    metadata.write_text('{"env_spec": "{}", "data_format": "hdf5"}')
    with pytest.raises(RLTransformerError, match="no observation_space and no action_space"):
        open_trajectories("minari:toy/telling-v0")
    metadata.write_text("{")
    with pytest.raises(RLTransformerError, match="cannot be read as JSON"):
        open_trajectories("minari:toy/telling-v0")


def test_d4rl_terminals_and_timeouts_are_kept_apart(tmp_path):
    data = telling_data()
    read = open_trajectories(write_d4rl(tmp_path / "d.hdf5", data))
    assert read.summary.terminated.tolist() == [True, False, True]
    assert read.summary.truncated.tolist() == [False, True, False]


def test_d4rl_unfinished_tail_is_dropped_and_counted_or_kept_by_choice(tmp_path):
    uri = write_d4rl(tmp_path / "d.hdf5", telling_data(), tail=5)
    dropped = open_trajectories(uri)
    assert dropped.num_steps == 13
    (note,) = [f for f in dropped.findings if f.kind == "unfinished tail"]
    assert "last 5 steps" in note.problem
    assert "append ?keep_unfinished=true to the URI" in note.fix
    for kept in (open_trajectories(uri, keep_unfinished=True), open_trajectories(f"{uri}?keep_unfinished=true")):
        assert kept.num_steps == 18
        assert [f.kind for f in kept.findings if f.level == "warning"] == ["unfinished episode"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("....tob"), min_size=1, max_size=40))
def test_d4rl_steps_in_are_steps_out_plus_steps_reported_dropped(tmp_path_factory, flags):
    path = tmp_path_factory.mktemp("d4rl") / "d.hdf5"
    steps = len(flags)
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(steps, dtype=np.float32)[:, None]
        file["actions"] = np.linspace(-1, 1, steps, dtype=np.float32)[:, None]
        file["rewards"] = np.ones(steps)
        file["terminals"] = [f in "tb" for f in flags]
        file["timeouts"] = [f in "ob" for f in flags]
    lengths = []  # the oracle: a plain loop
    run = 0
    for flag in flags:
        run += 1
        if flag != ".":
            lengths.append(run)
            run = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "check_in_child", lambda path, checker: None)  # fifty processes would take long
        if not lengths:
            with pytest.raises(RLTransformerError, match=r"no episode of the .* ends"):
                read_trajectories(f"d4rl:{path}")
            return
        dataset = read_trajectories(f"d4rl:{path}")
    assert dataset.lengths.tolist() == lengths
    dropped = [f for f in dataset.findings if f.kind == "unfinished tail"]
    assert dataset.num_steps + run == steps
    assert bool(run) == bool(dropped)
    assert dataset.observations[:, 0].tolist() == list(range(dataset.num_steps))


@pytest.mark.parametrize("missing", ["observations", "rewards"])
def test_d4rl_missing_arrays_are_named(tmp_path, missing):
    uri = write_d4rl(tmp_path / "d.hdf5", telling_data(), drop=(missing,))
    with pytest.raises(RLTransformerError, match=f"no array named {missing}; the file has a"):
        open_trajectories(uri)


def test_hdf5_links_out_of_the_file_and_declared_bombs_are_refused(tmp_path):
    with h5py.File(tmp_path / "outside.hdf5", "w") as file:
        file["secret"] = np.zeros(3)
    virtual = h5py.VirtualLayout((3,), "f8")
    virtual[:] = h5py.VirtualSource(str(tmp_path / "outside.hdf5"), "secret", (3,))
    for name, plant in {
        "external": lambda f: f.__setitem__("observations", h5py.ExternalLink("outside.hdf5", "/secret")),
        "soft": lambda f: f.__setitem__("observations", h5py.SoftLink("/rewards")),
        "bomb": lambda f: f.create_dataset("observations", (1 << 40,), "f4", chunks=(1 << 20,)),
        "storage": lambda f: f.create_dataset(
            "observations", (4,), "f4", external=[(str(tmp_path / "outside.hdf5"), 0, 16)]
        ),
        "virtual": lambda f: f.create_virtual_dataset("observations", virtual),
    }.items():
        path = tmp_path / f"{name}.hdf5"
        with h5py.File(path, "w") as file:
            file["rewards"] = np.zeros(3)
            plant(file)
        with pytest.raises(RLTransformerError, match=r"observations (is a link|claims|keeps its data)"):
            open_trajectories(f"d4rl:{path}")


def test_a_file_that_is_cut_off_is_refused_by_name(tmp_path):
    write_d4rl(tmp_path / "d.hdf5", telling_data())
    whole = (tmp_path / "d.hdf5").read_bytes()
    (tmp_path / "half.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RLTransformerError, match=r"half\.hdf5: cannot be read as HDF5"):
        open_trajectories(f"d4rl:{tmp_path / 'half.hdf5'}")


def test_a_store_gives_back_what_was_written_and_maps_it(tmp_path):
    data = telling_data()
    store = write_store(tmp_path / "s", data.spec, (data.trajectory(i) for i in range(len(data))))
    for name, column in data.columns.items():
        np.testing.assert_array_equal(store.columns[name], column)
        assert store.columns[name].dtype == column.dtype
    assert store.summary.final_observations.tolist() == data.summary.final_observations.tolist()
    np.testing.assert_array_equal(store.statistics.mean, data.statistics.mean)
    assert store.location == f"rlt:{tmp_path / 's'}"
    assert not isinstance(store.observations, np.memmap)
    assert store.observations.base is not None  # a view of the map, not a copy


def test_a_damaged_store_is_refused(tmp_path):
    data = telling_data()
    write_store(tmp_path / "s", data.spec, (data.trajectory(i) for i in range(len(data))))
    path = tmp_path / "s" / "rewards.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    open_store(tmp_path / "s")  # sizes agree: one flipped bit needs the hashes
    with pytest.raises(RLTransformerError, match=r"rewards\.npy: has changed"):
        open_store(tmp_path / "s", verify=True)
    path.write_bytes(content[:-8])
    with pytest.raises(RLTransformerError, match=r"rewards\.npy: has 224 bytes, not the 232"):
        open_store(tmp_path / "s")
    path.unlink()
    with pytest.raises(RLTransformerError, match="is missing"):
        open_store(tmp_path / "s")


def test_refused_data_leaves_no_store_behind(tmp_path):
    from rl_transformer.trajectories import Trajectory

    data = telling_data()
    bad = Trajectory(np.full((3, 2), np.nan), np.zeros((3, 1)), np.zeros(3), terminated=True)
    with pytest.raises(RLTransformerError, match="is NaN"):
        write_store(tmp_path / "s", data.spec, [data.trajectory(0), bad])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(RLTransformerError, match=r"one of minari:NAMESPACE/NAME-v0, d4rl:FILE\.hdf5, rlt:FOLDER"):
        open_trajectories("ftp:somewhere")


def test_from_episodes_and_store_agree_on_extras(tmp_path):
    one = {
        "observations": np.eye(3),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": True,
        "cost": np.arange(3.0),
    }
    data = TrajectoryDataset.from_episodes([one])
    store = write_store(tmp_path / "s", data.spec, [data.trajectory(0)])
    assert store.columns["cost"].tolist() == [0, 1, 2]
