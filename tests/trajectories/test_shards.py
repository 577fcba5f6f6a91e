"""Claims about stores in shards: they are one dataset, and training reads them as it reads one store."""

import itertools
import json

import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories, train
from rl_transformer.conditions.return_to_go import ReturnToGo
from rl_transformer.runtime.files import MANIFEST, sha256
from rl_transformer.trajectories.checks import Checker
from rl_transformer.trajectories.sharded_column import ShardedColumn
from rl_transformer.trajectories.shards import join_shards
from rl_transformer.trajectories.statistics import StreamingStatistics
from rl_transformer.trajectories.store_files import write_columns
from tests.toys import camera_data, telling_data, tiny_config, toll_data
from tests.training.runs import assert_equal_runs
from tests.trajectories.samples import from_vectors, vectors

BORDERS = (0, 3, 4, 9, 12)


def write_both(data, folder, borders=BORDERS):
    """Write a dataset as one store and as shards of some of its episodes each, and open both."""
    checkers = []
    for number, (first, end) in enumerate(itertools.pairwise(borders)):
        checkers.append(Checker(data.spec))
        episodes = [data.trajectory(index) for index in range(first, end)]
        write_columns(folder / "sharded" / f"shard-{number}", data.spec, episodes, checker=checkers[-1])
    names = [f"shard-{number}" for number in range(len(checkers))]
    join_shards(folder / "sharded", data.spec, zip(names, checkers, strict=True))
    # Without notes, which would hide what the checkers of shards did not find together.
    write_columns(folder / "one", data.spec, [data.trajectory(index) for index in range(len(data))])
    return [open_trajectories(f"rlt:{folder / name}", verify=True) for name in ("one", "sharded")]


def assert_equal_data(one, sharded):
    assert sharded.fingerprint == one.fingerprint
    assert sharded.spec == one.spec
    assert [f.to_dict() for f in sharded.findings] == [f.to_dict() for f in one.findings]
    for name in ("offsets", "terminated", "truncated", "episode_returns", "final_observations"):
        np.testing.assert_array_equal(getattr(sharded.summary, name), getattr(one.summary, name))
    if one.statistics is not None:
        np.testing.assert_array_equal(sharded.statistics.mean, one.statistics.mean)
        np.testing.assert_array_equal(sharded.statistics.std, one.statistics.std)
    for name, column in one.columns.items():
        assert isinstance(sharded.columns[name], ShardedColumn)
        np.testing.assert_array_equal(sharded.columns[name], column)


@pytest.mark.parametrize("make", [toll_data, camera_data])
def test_shards_are_the_same_data_as_one_store(make, tmp_path):
    one, sharded = write_both(make(num_episodes=12), tmp_path)
    assert_equal_data(one, sharded)
    for index in range(12):
        expected = one.trajectory(index)
        np.testing.assert_array_equal(sharded.trajectory(index).observations, expected.observations)
        np.testing.assert_array_equal(sharded.trajectory(index).actions, expected.actions)
    assert len(open_trajectories(f"rlt:{tmp_path / 'sharded' / 'shard-2'}")) == 5


def test_findings_are_those_of_all_shards_together(tmp_path):
    # Copies across a border, a feature that is constant in one shard only, rewards that are 0 in one shard only.
    still = vectors(seed=1, rewards=np.zeros(6))
    still["observations"][:, 0] = 7.0
    frozen = vectors(length=30, seed=2, terminated=False, truncated=True)
    frozen["observations"][:, 1] = 0.5
    others = [vectors(length=30, seed=3), vectors(seed=4), vectors(length=1, seed=5), vectors(length=1, seed=6)]
    outlier = vectors(length=30, seed=7)
    outlier["observations"][4, 2] = 1e9
    episodes = [still, *others, vectors(seed=4), frozen, outlier, vectors(length=30, seed=3), vectors(seed=4)]
    data = from_vectors(*episodes)
    one, sharded = write_both(data, tmp_path, (0, 1, 3, 7, 10))
    assert {"duplicate episode", "outlier", "frozen signal"} <= {finding.kind for finding in one.findings}
    assert not {"constant feature", "no rewards"} & {finding.kind for finding in sharded.findings}
    assert_equal_data(one, sharded)


def test_what_is_equal_or_a_code_in_all_shards_is_found(tmp_path):
    episodes = [vectors(length=30, seed=seed) for seed in range(12)]
    for number, episode in enumerate(episodes):
        episode["observations"][:, 2] = episode["observations"][:, 0]
        episode["actions"][:, 1] = 0.25
        if number > 4:
            episode["observations"][3, 1] = -999
        if number == 7:
            episode["observations"] = np.concatenate([episode["observations"][:1], episode["observations"][:-1]])
            episode["actions"][1], episode["rewards"][1] = episode["actions"][0], episode["rewards"][0]
    one, sharded = write_both(from_vectors(*episodes), tmp_path, (0, 1, 6, 9, 12))
    assert {"equal features", "missing code", "constant action", "repeated step"} <= {f.kind for f in one.findings}
    assert_equal_data(one, sharded)


def test_statistics_of_shards_are_summed_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(StreamingStatistics, "_ROWS", 7)  # so that borders of shards lie inside of what is summed
    assert_equal_data(*write_both(toll_data(num_episodes=12), tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": {"frame_stack": 2}},
        {"returns": {"reward_clip": 0.5}, "evaluation": {"every": 4}, "dataset": {"validation_fraction": 0.2}},
        {"model": {"conditions": ["return_to_go", "cost_to_go"]}},
    ],
)
def test_training_on_shards_gives_the_same_weights_to_the_bit(options, tmp_path):
    is_toll = options.get("model", {}).get("frame_stack") is None
    data = (toll_data if is_toll else camera_data)(num_episodes=12)
    one, sharded = write_both(data, tmp_path)
    runs = [train(tiny_config(tmp_path / name, **options), dataset=d) for name, d in (("a", one), ("b", sharded))]
    assert_equal_runs(*runs)


def test_columns_of_shards_stay_mapped(tmp_path):
    _, sharded = write_both(toll_data(num_episodes=12), tmp_path)
    for column in sharded.columns.values():
        assert all(part.base is not None for part in column.parts)
    episode = sharded.trajectory(5).observations
    assert any(np.shares_memory(episode, part) for part in sharded.observations.parts)
    assert ReturnToGo().column(sharded) is sharded.returns_to_go


def test_rows_of_a_sharded_column_are_those_of_one_array():
    whole = np.arange(24).reshape(12, 2)
    column = ShardedColumn([whole[:3], whole[3:4], whole[4:]])
    assert (column.shape, column.ndim, column.size, len(column)) == ((12, 2), 2, 24, 12)
    for rows in (
        0,
        11,
        -1,
        slice(2, 9),
        slice(3, 4),
        slice(12, 12),
        slice(9, 2),
        slice(None, None, 5),
        slice(-3, None),
    ):
        np.testing.assert_array_equal(column[rows], whole[rows])
    for rows in (np.array([[5, 3], [0, 11]]), np.array([], int), whole[:, 0] % 3 == 0, [4, 2]):
        np.testing.assert_array_equal(column[rows], whole[rows])
    np.testing.assert_array_equal(column.reshape((12, -1, 1)), whole.reshape(12, -1, 1))
    for outside in (12, -13, np.zeros(3, bool)):
        with pytest.raises(IndexError):
            column[outside]
    with pytest.raises(TypeError, match=r"np\.asarray"):
        column[:, 0]
    with pytest.raises(ValueError, match="different types"):
        ShardedColumn([whole, whole.astype(float)])


def change(folder, **fields):
    """Change fields of store.json, with its new hash in the manifest."""
    info = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**info, **fields}))
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / "store.json"
    manifest["files"]["store.json"] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "names",
    [
        ["../one"],
        ["/etc"],
        ["shard-0", "shard-0"],
        ["shard-9"],
        ["shard-0/."],
        "shard-0",
        [f"s{i}" for i in range(10_001)],
    ],
)
def test_a_list_of_shards_leads_to_folders_inside_only(names, tmp_path):
    write_both(toll_data(num_episodes=12), tmp_path)
    change(tmp_path / "sharded", shards=names)
    with pytest.raises(RLTransformerError, match=r"shard|not a name inside"):
        open_trajectories(f"rlt:{tmp_path / 'sharded'}")


def test_a_missing_or_damaged_shard_is_noticed(tmp_path):
    write_both(telling_data((4, 7, 2, 5, 6)), tmp_path, (0, 2, 3, 5))
    folder = tmp_path / "sharded"
    change(folder, shards=["shard-0", "shard-1"])
    with pytest.raises(RLTransformerError, match="shapes or types"):
        open_trajectories(f"rlt:{folder}")
    change(folder, shards=["shard-0", "shard-1", "shard-2"])
    path = folder / "shard-1" / "rewards.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RLTransformerError, match="SHA-256"):
        open_trajectories(f"rlt:{folder}", verify=True)
    path.unlink()
    with pytest.raises(RLTransformerError, match="missing"):
        open_trajectories(f"rlt:{folder}")


def test_only_stores_in_shards_need_the_later_version(tmp_path):
    one, sharded = write_both(toll_data(num_episodes=12), tmp_path)
    folders = [tmp_path / name for name in ("one", "sharded", "sharded/shard-0")]
    assert [json.loads((folder / "store.json").read_text())["format_version"] for folder in folders] == [1, 2, 1]
    sharded.save(tmp_path / "again")
    fingerprints = [open_trajectories(f"rlt:{tmp_path / name}").fingerprint for name in ("one", "again")]
    assert len(set(fingerprints)) == 1
    assert isinstance(one.observations, np.ndarray)
