"""Claims about names that come from files of others: they lead nowhere but into their folder."""

import shutil

import pytest

from rl_transformer import RLTransformerError, open_trajectories
from rl_transformer.runtime.paths import below
from rl_transformer.trajectories.store import write_store
from tests.toys import point_data


def test_a_link_that_leads_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key.npy").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "own.npy").write_text("own")
    (root / "file.npy").symlink_to(tmp_path / "private/key.npy")
    (root / "folder").symlink_to(tmp_path / "private")
    for name in ("file.npy", "folder/key.npy", "folder"):
        with pytest.raises(RLTransformerError, match="is not a name inside this folder"):
            below(root, name)
    (root / "alias.npy").symlink_to(root / "own.npy")
    assert below(root, "alias.npy").read_text() == "own"
    (root / "circle.npy").symlink_to("circle.npy")
    assert not below(root, "circle.npy").is_file()  # no file, and no error of Python's


def test_a_store_is_not_read_through_a_link(tmp_path):
    """Its content even fits the manifest: a link may lead elsewhere tomorrow."""
    data = point_data(2)
    store = write_store(tmp_path / "store", data.spec, (data.trajectory(i) for i in range(2))).location
    shutil.move(tmp_path / "store/rewards.npy", tmp_path / "rewards.npy")
    (tmp_path / "store/rewards.npy").symlink_to(tmp_path / "rewards.npy")
    with pytest.raises(RLTransformerError, match=r"'rewards\.npy' is not a name inside this folder"):
        open_trajectories(store)


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/etc/passwd", "", "a//b", ".hidden", "-x", "a b", "a\n", "a\0b", "C:\\x", "x" * 129, "a/" * 2500 + "b", "ä"],
)  # fmt: skip
def test_a_name_of_another_form_is_refused(name, tmp_path):
    with pytest.raises(RLTransformerError, match="is not a name inside this folder"):
        below(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "rewards.npy", "a/b-c/d_e.f", "$store$_action_ckpt.0.gz", "x" * 128])
def test_names_of_the_documented_form_are_accepted(name, tmp_path):
    assert below(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("scheme", ["", "rlt:", "d4rl:", "minari:"])
@pytest.mark.parametrize("name", ["a" * 300 + "-v0", "a/" * 2500 + "b-v0", "a\0-v0"])
def test_a_name_of_data_that_no_file_can_have_is_refused(scheme, name):
    with pytest.raises(RLTransformerError, match="cannot be the name of a file") as caught:
        open_trajectories(scheme + name)
    assert len(str(caught.value)) < 600
