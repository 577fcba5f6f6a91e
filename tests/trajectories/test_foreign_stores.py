"""Claims about stores that another program wrote, or that were changed: what does not fit together is refused."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.trajectories import verified
from rl_transformer.trajectories.store import write_store
from rl_transformer.trajectories.verified import verify_once
from tests.toys import point_data


@pytest.fixture
def store(tmp_path):
    """The folder of a store of three episodes of twelve steps."""
    data = point_data(3)
    write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(3)))
    return tmp_path / "store"


def replace(store, name, content):
    """Give a file of a store another content that its manifest fits."""
    (store / name).write_bytes(content)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (store / "manifest.json").write_text(json.dumps(manifest))


def replace_column(store, name, change):
    np.save(store.parent / "changed.npy", change(np.load(store / f"{name}.npy")))
    replace(store, f"{name}.npy", (store.parent / "changed.npy").read_bytes())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("observations", lambda a: a[:, :1]),
        ("observations", lambda a: a[:, None]),
        ("actions", lambda a: a[:, 0]),
        ("actions", lambda a: np.repeat(a, 2, axis=1)),
        ("rewards", lambda a: a[:, None]),
        ("returns_to_go", lambda a: a[:, None]),
        ("rewards", lambda a: a[:-1]),
        ("observations", lambda a: np.concatenate([a, a[:1]])),
        ("terminated", lambda a: a[:-1]),
        ("truncated", lambda a: np.append(a, False)),
        ("episode_returns", lambda a: a[:, None]),
        ("offsets", lambda a: a[[0, 2, 1, 3]]),
        ("offsets", lambda a: a[[0, 1, 1, 3]]),
        ("offsets", lambda a: a - 1),
        ("offsets", lambda a: a.astype(np.int32)),
        ("offsets", lambda a: a[:1]),
        ("observation_mean", lambda a: a[:1]),
        ("observation_mean", lambda a: np.append(a, a)),
        ("observation_mean", lambda a: a.astype(str)),
        ("episode_returns", lambda a: a.astype(str)),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(name, change, store):
    open_trajectories(f"rlt:{store}")
    replace_column(store, name, change)
    with pytest.raises(RLTransformerError, match="shapes or types are not those of a store"):
        open_trajectories(f"rlt:{store}")


def test_statistics_of_another_number_of_features_are_refused(store):
    for name in ("observation_mean", "observation_std"):
        replace_column(store, name, lambda a: a[:1])
    with pytest.raises(RLTransformerError, match="shapes or types are not those of a store"):
        open_trajectories(f"rlt:{store}")


CALLED = []


def call(text):
    CALLED.append(text)


class Hostile:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self):
        return call, ("code of the file",)


def test_a_pickle_in_place_of_a_column_is_never_loaded(store):
    """NumPy takes a file without its own header for a pickle, if it is allowed to."""
    content = pickle.dumps(Hostile())
    pickle.loads(content)  # the control
    assert CALLED == ["code of the file"]
    replace(store, "rewards.npy", content)
    with pytest.raises(RLTransformerError, match="cannot be mapped"):
        open_trajectories(f"rlt:{store}")
    assert CALLED == ["code of the file"]


def test_a_file_that_no_manifest_lists_is_not_opened(store):
    (store / "cost.npy").write_bytes(pickle.dumps("no array"))
    assert "cost" not in open_trajectories(f"rlt:{store}").columns


@pytest.mark.parametrize("name", ["\0", "../../etc/passwd", "/etc/passwd"])
def test_a_manifest_that_lists_no_name_inside_the_store_is_refused_before_anything_is_looked_for(name, store):
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("rewards.npy")
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RLTransformerError, match="is not a name inside this folder"):
        verify_once(store)


def test_a_store_whose_manifest_is_another_one_is_compared_again(store):
    """The files are unchanged, and the hashes that they should have are not."""
    verify_once(store)
    manifest = (store / "manifest.json").read_text()
    digest = json.loads(manifest)["files"]["rewards.npy"]["sha256"]
    (store / "manifest.json").write_text(manifest.replace(digest, digest[::-1]))
    with pytest.raises(RLTransformerError, match="SHA-256 differs"):
        verify_once(store)


def test_files_that_change_while_they_are_compared_are_compared_again(store, monkeypatch):
    compared = []
    genuine = verified.verify_folder

    def verify_and_change(folder):
        genuine(folder)
        compared.append(folder)
        if len(compared) == 1:
            content = bytearray((store / "rewards.npy").read_bytes())
            content[-1] ^= 1
            (store / "rewards.npy").write_bytes(bytes(content))

    monkeypatch.setattr(verified, "verify_folder", verify_and_change)
    verify_once(store)
    with pytest.raises(RLTransformerError, match="SHA-256 differs"):
        verify_once(store)


def test_an_archive_in_place_of_a_column_is_refused(store, tmp_path):
    """NumPy opens a zip file whatever its name, as the names of its members; found by a fuzzer."""
    np.savez(tmp_path / "archive.npz", first=np.zeros(2), second=np.zeros(2))
    replace(store, "observation_mean.npy", (tmp_path / "archive.npz").read_bytes())
    with pytest.raises(RLTransformerError, match="archive of several arrays"):
        open_trajectories(f"rlt:{store}")
